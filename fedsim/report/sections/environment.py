"""Where it ran, and exactly what: environment and configuration."""

from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w

from fedsim.report.section import Section, Table, bytes_text

__all__ = ["section"]


def _training(facts: Mapping[str, Any]) -> str:
    """Say how workers trained clients."""
    execution = facts.get("execution") or {}
    size, reason = execution.get("block_size"), execution.get("reason")
    padding, memory = execution.get("padding"), execution.get("memory_bytes")
    return (
        f"{execution.get('tier', 'messages')}"
        + (f", {size} clients at once" if size else "")
        + (f", {bytes_text(memory)} of memory for them" if memory else "")
        + (f", {padding - 1:.1%} more examples computed than there are" if padding else "")
        + (f" ({reason})" if reason else "")
    )


def section(run: Any, clients: Sequence[dict[str, Any]]) -> Section:
    """Return versions, hardware, data hashes and the whole configuration."""
    env, facts = run.environment, run.facts
    git = env.get("git") or {}
    rows = [
        ["run", run.id],
        ["started / ended", f"{run.created[:19]} / {run.finished[:19] or '-'} UTC"],
        ["engine", f"{facts['grid']}, {facts['workers']} worker(s), {facts['device']}"],
        ["training", _training(facts)],
        ["processor", f"{env.get('processor', '-')}, {env.get('cpus', '-')} core(s) usable"],
        ["memory", bytes_text(env.get("memory_bytes", 0))],
        ["GPUs", ", ".join(env.get("gpus") or []) or "none"],
        ["platform", env.get("platform", "-")],
        ["Python", env.get("python", "-")],
        *([name, version] for name, version in env.get("versions", {}).items()),
        [
            "git",
            f"{git['commit'][:12]}{' + changes' if git['is_dirty'] else ''}" if git else "none",
        ],
        ["data", f"{facts.get('data_source', '')} sha256 {facts['data_sha256'][:16]}"],
        ["model sha256", (run.summary or {}).get("model_sha256", "-")[:16] or "-"],
    ]
    return Section(
        "environment",
        "Environment and configuration",
        {"environment": env, "facts": facts, "configuration": run.config},
        text="Save this as experiment.toml and `fedsim run experiment.toml` repeats the run.",
        tables=[Table("Environment", ["", ""], rows)],
        code=tomli_w.dumps(run.config),
    )

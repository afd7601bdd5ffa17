"""A run on anonymized records beside the same run on raw ones: what anonymization costs a model.

The twin is a run of its own in the store, with the same columns, encoding, seed and everything
else. It ends by putting what it came to into the summary of the run it is compared with.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedsim.config.schema import RunConfig
from fedsim.store import RunStore, StoredRun

__all__ = ["BESIDE", "record", "twin_of"]

BESIDE = "compared_with"  # the fact of a twin: the run it belongs to


def twin_of(config: RunConfig) -> RunConfig | None:
    """Return the experiment on raw records; None where there is nothing to compare."""
    settings = config.anonymization
    if settings.name in ("none", "raw") or not settings.compare_raw:
        return None
    # Nothing is agreed on, and nothing of single clients hidden, where records are raw anyway.
    raw = replace(settings, name="raw", compare_raw=False)
    return replace(config, name=f"{config.name}-raw", anonymization=raw)


def record(store: RunStore, twin: StoredRun, metrics: Mapping[str, Any]) -> str | None:
    """Put what a twin came to beside the run it belongs to; return that run, None for no twin."""
    run_id = twin.facts.get(BESIDE)
    if run_id is None:
        return None
    raw = {"run": twin.id, "metrics": dict(metrics)}
    store.finish(run_id, "finished", {**store.get(run_id).summary, "raw": raw})
    return str(run_id)

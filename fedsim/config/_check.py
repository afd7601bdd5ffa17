"""Legality: what fits together, before anything starts, and again when the data are known."""

from collections.abc import Callable

from fedsim import losses, metrics
from fedsim.config.schema import RunConfig
from fedsim.data import Meta
from fedsim.errors import ConfigError, Problem
from fedsim.registry import suggest

__all__ = ["check", "check_data"]


def check(config: RunConfig, source: Callable[[str], str] = lambda path: "") -> None:
    """Refuse what cannot work whatever the data are; raises `ConfigError` with all problems."""
    problems: list[Problem] = []

    def refuse(path: str, value: object, accepted: str, hint: str = "") -> None:
        problems.append(Problem(path, value, accepted, hint, source(path)))

    for name in config.metrics:
        if name not in metrics.METRICS:
            known = list(metrics.METRICS)
            refuse("metrics", name, f"one of {', '.join(known)}", suggest(name, known))
    rounds = config.rounds
    if rounds.cohort is not None and rounds.min_results > rounds.cohort:
        refuse("rounds.min_results", rounds.min_results, f"at most rounds.cohort = {rounds.cohort}")
    table = config.data
    for key in ("path", "target"):
        if getattr(table, key, "given") == "":
            refuse(f"data.{key}", "", "set: the file, and the column to predict")
    if config.engine.gpus_per_worker and config.engine.device == "cpu":
        refuse("engine.gpus_per_worker", config.engine.gpus_per_worker, "unset with device = 'cpu'")
    if problems:
        raise ConfigError(problems)


def check_data(config: RunConfig, meta: Meta, clients: int) -> None:
    """Refuse what does not fit the data; raises `ConfigError` with all problems."""
    problems = []
    rounds = config.rounds
    if config.mode == "federated" and rounds.cohort and rounds.cohort > clients:
        problems.append(Problem("rounds.cohort", rounds.cohort, f"at most {clients}, all clients"))
    if config.mode == "federated" and rounds.min_results > (rounds.cohort or clients):
        accepted = f"at most {rounds.cohort or clients}, the cohort"
        problems.append(Problem("rounds.min_results", rounds.min_results, accepted))
    if config.loss != "auto" and losses.KINDS[config.loss] != meta.kind:
        fitting = [name for name, kind in losses.KINDS.items() if kind == meta.kind]
        accepted = f"{' or '.join(fitting)} for {meta.kind} data ({meta.name})"
        problems.append(Problem("loss", config.loss, accepted))
    for name in config.metrics:
        if meta.kind not in metrics.METRICS[name].kinds:
            fitting = [m for m, metric in metrics.METRICS.items() if meta.kind in metric.kinds]
            accepted = f"one of {', '.join(fitting)} for {meta.kind} data ({meta.name})"
            problems.append(Problem("metrics", name, accepted))
    name = type(config.model).__name__.lower()
    if meta.vocabulary and name in ("linear", "mlp", "cnn", "lenet"):
        accepted = f"lstm or transformer: {meta.name} has sequences of tokens"
        problems.append(Problem("model.name", name, accepted))
    if problems:
        raise ConfigError(problems)

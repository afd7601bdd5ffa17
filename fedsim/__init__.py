"""fedsim: federated learning, simulated the way it will be deployed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.api import Listener, Result
    from fedsim.config.schema import RunConfig

__all__ = ["Result", "__version__", "plan", "resume", "run"]

__version__ = "0.1.0"


def run(
    experiment: "str | Path | Mapping[str, Any] | RunConfig" = "digits",
    overrides: Sequence[str] = (),
    *,
    runs: str | Path | None = None,
    data_dir: str | Path | None = None,
    listener: "Listener | None" = None,
) -> "Result":
    """Run an experiment: a TOML file, a built-in name, a mapping or a `RunConfig`.

    Raises `ConfigError` for everything wrong with it, before anything starts; `RunFailedError`
    when it cannot go on, and `Interrupted` after Ctrl-C: both leave a run that `resume` continues.
    The Ray that it wants starts while what a run needs is still being imported.

    >>> import fedsim  # doctest: +SKIP
    >>> fedsim.run("digits", ["rounds.count=3"])  # doctest: +SKIP
    """
    from fedsim.ahead import ray_ahead
    from fedsim.environment import without_collector

    with ray_ahead(experiment, overrides):
        with without_collector():
            from fedsim import api

        return api.run(experiment, overrides, runs=runs, data_dir=data_dir, listener=listener)


def __getattr__(name: str) -> object:
    """Give `fedsim.resume`, `fedsim.plan` and `fedsim.Result` on first use.

    They need torch and Flower; `import fedsim` alone stays light.
    """
    if name in ("resume", "plan", "Result"):
        from fedsim import api

        return getattr(api, name)
    raise AttributeError(f"module 'fedsim' has no attribute {name!r}")

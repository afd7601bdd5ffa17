"""fedsim: federated learning, simulated the way it will be deployed."""

__all__ = ["Result", "__version__", "plan", "resume", "run"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Give `fedsim.run`, `fedsim.resume`, `fedsim.plan` and `fedsim.Result` on first use.

    They need torch and Flower; `import fedsim` alone stays light.
    """
    if name in ("run", "resume", "plan", "Result"):
        from fedsim import api

        return getattr(api, name)
    raise AttributeError(f"module 'fedsim' has no attribute {name!r}")

"""Grids: who carries messages and runs clients. Nothing here knows of learning or privacy."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.engine.apps import AppRun, run_flower_app

__all__ = ["AppRun", "run_flower_app"]


def __getattr__(name: str) -> Any:
    """Import on first use: Flower and torch take seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fedsim.engine import apps

    return getattr(apps, name)

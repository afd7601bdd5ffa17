"""Schemas of tables that come with fedsim, one TOML file each, named like the data set."""

from importlib import resources
from pathlib import Path

__all__ = ["names", "path_of"]


def names() -> tuple[str, ...]:
    """Return the names of the schemas there are.

    >>> names()
    ('adult', 'heart-disease')
    """
    files = resources.files("fedsim.anonymize.schemas").iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def path_of(name: str) -> Path:
    """Return the file of a schema."""
    return Path(str(resources.files("fedsim.anonymize.schemas") / f"{name}.toml"))

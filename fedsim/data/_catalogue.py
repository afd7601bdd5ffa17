"""The data sets there are, and whether their files are at hand."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedsim import registry
from fedsim.data._source import find, locate

__all__ = ["describe", "fetch"]


def describe(name: str, data_dir: Path | None = None) -> dict[str, Any]:
    """Say what a data set is, without loading it, and where its files are.

    Raises `ConfigError` for an unknown name.
    """
    part: Any = registry.load("data", name)
    paths = find(part.files, data_dir)
    if not part.files:
        place = "needs no files"
    elif paths:
        place = str(paths[0].parent)
    else:
        place = "not here: fetch it"
    summary = importlib.import_module(part.__module__).__doc__ or name
    return {
        "name": name,
        "summary": summary.strip().splitlines()[0],
        **part.facts,
        "available": paths is not None or not part.files,
        "place": place,
        "files": [{"path": f.path, "sha256": f.sha256, "url": f.url} for f in part.files],
    }


def fetch(
    name: str,
    data_dir: Path | None = None,
    progress: Callable[[str, int], None] = lambda path, size: None,
) -> list[Path]:
    """Make sure a data set's files are there and are the published ones; download if not.

    Raises `MissingDataError` for a wrong hash, `NetworkError` where a download fails.
    """
    part: Any = registry.load("data", name)
    return locate(name, part.files, data_dir, progress)

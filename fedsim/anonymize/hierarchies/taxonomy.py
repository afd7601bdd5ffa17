"""Categories in groups of groups: a taxonomy, from a file or in place."""

import csv
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fedsim.anonymize.hierarchies._tree import Hierarchy, from_paths
from fedsim.anonymize.hierarchies._values import places
from fedsim.errors import ConfigError, MissingDataError, Problem

__all__ = ["Taxonomy"]

_MOST_BYTES = 50_000_000


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """Every value with what it is generalized to, level by level, up to one root.

    `paths`: one list per value, for example ["Cambodia", "Asia", "*"]. `file`: the same as a CSV
    file, one value per line, separated by semicolons or commas: ARX's format. Where a file is
    given, a schema that is read has its content in `paths`, so that nothing depends on the file
    afterwards.
    """

    paths: tuple[tuple[str, ...], ...] = ()
    file: str = ""

    def __post_init__(self) -> None:
        """Check that one of the two is given and is a tree."""
        if bool(self.paths) == bool(self.file):
            given = "both" if self.paths else "neither"
            raise ConfigError([Problem("file", given, "either file or paths")])
        if self.paths:
            _tree(self.paths, "paths")

    def read(self, folder: Path) -> "Taxonomy":
        """Return the taxonomy with its file's content in place; relative paths are `folder`'s.

        Raises `MissingDataError` where there is no such file, `ConfigError` for other contents.
        """
        if not self.file:
            return self
        path = folder / self.file
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise ConfigError([Problem("file", str(path), f"at most {_MOST_BYTES:,} bytes")])
            text = unicodedata.normalize("NFC", path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise ConfigError([Problem("file", str(path), "a CSV file in UTF-8")]) from error
        except OSError as error:
            raise MissingDataError(f"cannot read the taxonomy {path}: {error.strerror}") from error
        lines = text.splitlines()
        separator = ";" if lines and ";" in lines[0] else ","
        rows = [
            tuple(cell.strip() for cell in row)
            for row in csv.reader(lines, delimiter=separator)
            if row
        ]
        _tree(rows, f"file {path}")
        return Taxonomy(tuple(rows))

    def build(self) -> Hierarchy:
        """Return the tree."""
        return _tree(self.paths, "paths")[0]

    def codes(self, column: Any) -> NDArray[Any]:
        """Return the leaf of each cell; -1 for values the taxonomy does not have."""
        return places(column, _tree(self.paths, "paths")[1])


def _tree(paths: Any, where: str) -> tuple[Hierarchy, tuple[str, ...]]:
    try:
        return from_paths(paths)
    except ValueError as error:
        raise ConfigError([Problem(where, "", f"a tree: {error}")]) from error

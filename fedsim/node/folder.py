"""A node's folder: fixed names for what is in it, and `node.toml`, which says where rows are."""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedsim.errors import ConfigError, Problem
from fedsim.fields import read_table

__all__ = ["NODE_FOLDER", "NodeFolder", "OwnData"]

#: Key of a SuperNode's node config that names the folder.
NODE_FOLDER = "node-folder"


@dataclass(frozen=True, slots=True)
class OwnData:
    """`[data]` of node.toml: the file that has this node's rows, and nobody else's.

    `path`: a .csv, .tsv or .parquet file; relative to the folder.
    """

    path: str


@dataclass(frozen=True, slots=True)
class NodeFolder:
    """Where everything of a node is."""

    root: Path

    @property
    def policy(self) -> Path:
        """Return where the policy is."""
        return self.root / "policy.toml"

    @property
    def approvers(self) -> Path:
        """Return where the keys of those are who may approve experiments."""
        return self.root / "approvers.toml"

    @property
    def settings(self) -> Path:
        """Return where the node's own settings are."""
        return self.root / "node.toml"

    @property
    def audit(self) -> Path:
        """Return where the audit log is."""
        return self.root / "audit.jsonl"

    @property
    def ledger(self) -> Path:
        """Return the folder of what has been spent and answered."""
        return self.root / "ledger"

    @property
    def pins(self) -> Path:
        """Return the folder of what was released anonymized."""
        return self.root / "pins"

    @property
    def memory(self) -> Path:
        """Return the folder of what clients remember between rounds."""
        return self.root / "memory"

    @property
    def code(self) -> Path:
        """Return the folder of model code that the node's owner put there."""
        return self.root / "code"

    def own_data(self) -> OwnData | None:
        """Return where this node's rows are, None where node.toml names no file.

        Raises `ConfigError` for a file that is none, and for settings that are wrong.
        """
        content = self._content()
        if "data" not in content:
            return None
        problems: list[Problem] = []
        found = read_table("data", OwnData, content["data"], problems)
        if problems:
            raise ConfigError([replace(p, source=str(self.settings)) for p in problems])
        data: OwnData = replace(found, path=str((self.root / found.path).absolute()))
        return data

    def _content(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self.settings.read_bytes().decode())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            accepted = f"a TOML file that can be read ({error})"
            raise ConfigError([Problem("node", str(self.settings), accepted)]) from error

"""Before anything is signed: would an experiment be allowed on a node, and why not."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedsim.config.schema import RunConfig
from fedsim.data import declared_of
from fedsim.data._declare import declare
from fedsim.data.partition.natural import Natural
from fedsim.data.table import Table
from fedsim.errors import ConfigError, MissingDataError, Problem
from fedsim.node.account import spent
from fedsim.node.approval import read_approvers
from fedsim.node.folder import NodeFolder
from fedsim.node.policy import read_policy
from fedsim.node.rules import Facts, asked_columns, decide

__all__ = ["Verdict", "declared_by", "would_allow"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an experiment would be refused, nothing if it would not; who could approve it; what it
    reads; and what was spent until now.
    """

    reasons: tuple[str, ...]
    approvers: tuple[str, ...]
    columns: tuple[str, ...]
    spent: dict[str, float]
    maximum_epsilon: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def would_allow(root: Path, config: RunConfig) -> Verdict:
    """Return what a node's policy says to an experiment; no row is read, nothing is written down.

    Raises `ConfigError` for a policy or a list of approvers that is none: such a node refuses
    everything. What only shows during a run (how much of the budget its rounds take, how often it
    was answered) is not judged.
    """
    folder = NodeFolder(root)
    if not root.is_dir():
        raise MissingDataError(f"{root}: there is no such folder")
    policy, approvers = read_policy(folder.policy), read_approvers(folder.approvers)
    own = folder.own_data()
    reasons = decide(policy, config, Facts(has_own_data=own is not None))
    declared = declared_of(config.data) if isinstance(config.data, Table) else None
    columns = asked_columns(config, declared) if declared else ()
    if own is not None and not Path(own.path).is_file():
        reasons.append(f"node.toml: data.path = {own.path!r}: there is no such file")
    delta = policy.maximum_delta
    known = spent(folder.ledger, delta) if delta is not None else {}
    return Verdict(tuple(reasons), tuple(approvers), columns, known, policy.maximum_epsilon)


def declared_by(config: RunConfig, *, with_rows: bool = False) -> dict[str, Any]:
    """Return what a pooled table's clients have in common, for `data.declared`.

    Raises `ConfigError` where the experiment is not on a table with a column of clients.
    """
    if not isinstance(config.data, Table):
        raise ConfigError([Problem("data.name", type(config.data).__name__.lower(), "table")])
    by = config.partition.by if isinstance(config.partition, Natural) else None
    if by is None:
        accepted = "natural, with partition.by = the column that names the clients"
        raise ConfigError([Problem("partition.name", "...", accepted)])
    return declare(config.data, by, with_rows=with_rows)

"""The exception tree: every error a user can meet, and the exit code it ends a command with.

0 ok, 1 run failed, 2 usage, configuration, data contents or a refused combination, 3 environment
(missing file, full disk, no GPU), 4 privacy budget exhausted, 5 network or authentication,
130 interrupted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

__all__ = [
    "BudgetExceededError",
    "ConfigError",
    "DataError",
    "FedsimError",
    "IdentityError",
    "Interrupted",
    "LedgerError",
    "MissingDataError",
    "NetworkError",
    "Problem",
    "RunFailedError",
    "SealingError",
    "SecAggAborted",
    "SetupError",
    "UnknownRunError",
]


class FedsimError(Exception):
    """Anything fedsim refuses or cannot finish; the message is meant for the user as it is."""

    exit_code: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration: where, what was given, what is accepted, a way out."""

    path: str
    value: object
    accepted: str
    hint: str = ""
    source: str = ""

    def __str__(self) -> str:
        where = f"{self.source}: " if self.source else ""
        hint = f" {self.hint}" if self.hint else ""
        return f"{where}{self.path} = {self.value!r}: {self.accepted}.{hint}"


class ConfigError(FedsimError):
    """A configuration that cannot run; holds every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


class DataError(FedsimError):
    """Data that cannot be trained on: NaN, a label out of range, an empty client."""

    exit_code = 2


class UnknownRunError(FedsimError):
    """No run of that name in the run store."""

    exit_code = 2


class SetupError(FedsimError):
    """The machine cannot do it: a read-only folder, a full disk, too few resources."""

    exit_code = 3


class MissingDataError(SetupError):
    """A data file is missing or is not the file it should be (wrong hash)."""


class BudgetExceededError(FedsimError):
    """The privacy budget does not allow what comes next; nothing of it has been done."""

    exit_code = 4


class LedgerError(FedsimError):
    """A privacy ledger is not what was written into it; the message names the file and the line."""


class SealingError(FedsimError):
    """A sealed file is not what was sealed: changed, cut off, or another one under its name."""


class NetworkError(FedsimError):
    """A download failed."""

    exit_code = 5


class IdentityError(FedsimError):
    """Who somebody is cannot be established: a list that is unsigned, broken or not the newest."""

    exit_code = 5


class RunFailedError(FedsimError):
    """A run stopped before its last round; what was done is kept and can be resumed.

    `records` are the `ClientRecord`s of the clients that were lost in the round that failed.
    """

    def __init__(self, message: str, records: Sequence[Any] = ()) -> None:
        self.records = tuple(records)
        super().__init__(message)


class SecAggAborted(RunFailedError):  # noqa: N818 - the field's word for it
    """A secure sum was given up before anything of it was opened; the model is unchanged.

    `survivors` clients were left where `threshold` were needed; `reason` says in which phase, or
    what else was wrong. `lost`: by client, what became of it.
    """

    def __init__(
        self,
        reason: str,
        survivors: int,
        threshold: int,
        records: Sequence[Any] = (),
        *,
        lost: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self.reason, self.survivors, self.threshold = reason, survivors, threshold
        self.lost = lost
        text = f"secure sum given up ({reason}): {survivors} clients left, {threshold} needed"
        if records:
            text += f". First of {len(records)}: client {records[0].client}: {records[0].lost}"
        super().__init__(text, records)


class Interrupted(FedsimError):  # noqa: N818 - Ctrl-C is not an error
    """The user stopped the run; it is checkpointed and can be resumed."""

    exit_code = 130

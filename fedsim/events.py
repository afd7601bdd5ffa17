"""What a run tells while it goes on; progress bars and log lines are made of these."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.core import RoundRecord

__all__ = ["ClientsDone", "Event", "RoundDone", "RunDone", "RunStarted", "Stage"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Something that takes a while begins, or something worth a line happened."""

    text: str


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run, new or resumed, begins with round `first_round` of `rounds`."""

    run_id: str
    config: Any
    folder: Path
    first_round: int
    rounds: int
    clients: int


@dataclass(frozen=True, slots=True)
class ClientsDone:
    """Within a phase of a round, `done` of `asked` clients have answered."""

    round: int
    done: int
    asked: int


@dataclass(frozen=True, slots=True)
class RoundDone:
    """A round is finished, stored and checkpointed."""

    record: RoundRecord


@dataclass(frozen=True, slots=True)
class RunDone:
    """The run has ended, one way or another; `result` is a `fedsim.api.Result`."""

    result: Any


Event = Stage | RunStarted | ClientsDone | RoundDone | RunDone

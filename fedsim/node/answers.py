"""How often a node has answered an experiment, by round: its own count, not the server's.

A hash chain for each experiment, by the hash of the text that was signed: who runs the same
experiment under another name, or after a restart, goes on counting here.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from fedsim.chain import Chain, Kind
from fedsim.node.approval import RefusedError

__all__ = ["Answers"]

_KIND = Kind(
    format="fedsim answers 1",
    name="count of answers",
    if_broken="How often this experiment was answered is not known any more: restore the file from "
    "a backup, or have another experiment approved",
    if_closed="without it the node answers nothing",
    mode=0o600,
)


@dataclass(frozen=True, slots=True)
class _Answer:
    kind: str
    round: int
    run: str
    time: str


class Answers:
    """The count of one experiment, in a file of its own."""

    def __init__(self, folder: Path, experiment: str) -> None:
        """Name the file; nothing is read or made yet. `experiment`: the hash of its text."""
        path = folder / f"answers.{experiment[:32]}.jsonl"
        self._chain = Chain(path, _KIND, _read, self._take, self._forget)
        self._counts: Counter[tuple[str, int]] = Counter()

    def rounds(self, kind: str) -> Counter[int]:
        """Return how often each round was answered by messages of a kind."""
        self._chain.follow()
        return Counter({own: n for (of, own), n in self._counts.items() if of == kind})

    def add(self, kind: str, round: int, run: str, time: str, *, rounds: int, repeats: int) -> None:
        """Write an answer down before it is given.

        `rounds`: how many may be answered in all; `repeats`: how often the same one once more.
        Raises `RefusedError`; nothing was written then.
        """
        answer = _Answer(kind, round, run, time)

        def decided() -> tuple[_Answer, bytes]:
            total = sum(n for (of, _), n in self._counts.items() if of == kind)
            before = self._counts[kind, round]
            if before > repeats:
                raise RefusedError(
                    f"round {round} was answered {before} times already; maximum_repeats = "
                    f"{repeats}"
                )
            if total >= rounds:
                raise RefusedError(
                    f"this experiment was answered {total} times already; maximum_rounds = {rounds}"
                )
            return answer, _body(answer)

        self._chain.append(decided)

    def _take(self, answer: _Answer) -> None:
        self._counts[answer.kind, answer.round] += 1

    def _forget(self) -> None:
        self._counts = Counter()


def _body(answer: _Answer) -> bytes:
    return json.dumps(asdict(answer), sort_keys=True, separators=(",", ":")).encode()


def _read(body: bytes) -> _Answer:
    return _Answer(**json.loads(body))

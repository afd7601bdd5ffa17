"""Which secure sums a node has helped to open, on its disk: no second one that gives it away.

Two sums of a round that differ by one client differ by what that client sent. A client refuses the
second (`fedsim.secagg`), by what it remembers; in the memory of a SuperNode that would end with the
process, and with each run of Flower's, which whoever submits can begin anew.
"""

import fcntl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fedsim.errors import SetupError
from fedsim.files import make_private_folder, write_secret
from fedsim.secagg import lasting

__all__ = ["Sums"]

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Sums:
    """The sums of one experiment, in a file; `client`: this node's number."""

    path: Path
    client: int

    @classmethod
    def of(cls, ledger: Path, experiment: str, client: int) -> "Sums":
        """Return those of an experiment, by the hash of its text; `ledger`: the node's folder."""
        return cls(ledger / f"sums.{experiment[:32]}", client)

    def answer(self, state: bytes, ask: Callable[[bytes], tuple[bytes, Answer]]) -> Answer:
        """Have `ask` answer from a state with all that is remembered, and remember what it leaves.

        `ask` returns the state that it leaves, and its answer, which is not returned before that is
        on the disk. One answer at a time, whatever runs there are. Raises `SetupError` where
        nothing can be kept, or what was kept cannot be read: nothing is answered then.
        """
        make_private_folder(self.path.parent)
        try:
            with self.path.with_suffix(f"{self.path.suffix}.lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                left, answer = ask(lasting.joined(self._kept(), state, self.client))
                write_secret(self.path, lasting.lasting(left, self.client))
                return answer
        except OSError as error:
            raise SetupError(f"cannot lock {self.path}: {error.strerror or error}") from error

    def _kept(self) -> bytes:
        try:
            kept = self.path.read_bytes()
            return lasting.lasting(kept, self.client)
        except FileNotFoundError:
            return b""
        except (OSError, ValueError) as error:
            raise SetupError(
                f"{self.path}: which sums were opened cannot be read ({error}): this node answers "
                "no sum of the experiment. Restore the file from a backup"
            ) from error

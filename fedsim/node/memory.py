"""What a client remembers between rounds, on the node's disk: controls, a layer of its own.

Flower keeps a client's state in the memory of its SuperNode, for one run of Flower's: a node that
is started again has lost it, and so has every node when a run goes on after its server was stopped.
Here it is a file for each of the last rounds, in a folder for each run. A round that is asked for
again begins with what was remembered before it, as if it had not been answered: the server goes
back a round or two where it was killed.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from safetensors import SafetensorError
from safetensors.torch import load, save

from fedsim.clients._quiet import LostClientError
from fedsim.core import Memo
from fedsim.errors import SetupError
from fedsim.files import make_private_folder, replacing
from fedsim.node.approval import RefusedError

__all__ = ["FIRST_STRETCH", "Memory"]

#: Key of the run config with Flower's number of the stretch that a run began with.
FIRST_STRETCH = "first-stretch"

_RUN = re.compile(r"[0-9]{1,20}")  # Flower's numbers of runs
_ROUNDS = 3  # a server that is killed goes back two at most
_RUNS = 8  # that are remembered; the one that was answered longest ago is forgotten
_NAME = "{:08d}.safetensors"


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of one run, in a folder of its own."""

    folder: Path

    @classmethod
    def of(cls, root: Path, experiment: str, run: str) -> Self:
        """Return the memory of a run; `root`: of all, `experiment`: the hash of its text.

        `run`: Flower's number of the run's first stretch, which the server says. Raises
        `RefusedError` where it is none.
        """
        if not _RUN.fullmatch(run):
            raise RefusedError(f"{run[:20]!r} is no number of a run")
        return cls(root / f"{experiment[:32]}.{run}")

    def before(self, round: int) -> Memo:
        """Return what was remembered when a round began; nothing where nothing was.

        Raises `LostClientError` where that is forgotten, `SetupError` for a file that cannot be
        read.
        """
        known = self._rounds()
        earlier = [number for number in known if number < round]
        if earlier:
            return self._read(max(earlier))[0]
        if known and (after := self._read(min(known))[1]):
            raise LostClientError(
                f"round {round} once more: what this node remembered after round {after} is "
                f"forgotten, it goes back to round {min(known) + 1} at most"
            )
        return {}

    def keep(self, round: int, memo: Memo) -> None:
        """Remember what a round left, in place of what later ones did.

        It is on the disk when this returns. Raises `SetupError` where it cannot be written.
        """
        known = self._rounds()
        if not memo and not known:
            return  # of an algorithm that remembers nothing
        earlier = [number for number in known if number < round]
        own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in memo.items()}
        head = {"after": str(max(earlier, default=0))}
        is_new = not self.folder.exists()
        make_private_folder(self.folder.parent)
        make_private_folder(self.folder)
        try:
            with replacing(self._file(round), 0o600) as file:
                file.write(save(own, metadata=head))
            for number in known:
                if number > round or number in earlier[: 1 - _ROUNDS]:
                    self._file(number).unlink()
            self.folder.touch()
        except OSError as error:
            raise SetupError(f"cannot write {self.folder}: {error.strerror or error}") from error
        if is_new:
            self._forget_others()

    def _rounds(self) -> list[int]:
        """Return the rounds that something is remembered of, ascending."""
        return sorted(int(path.stem) for path in self.folder.glob("[0-9]*.safetensors"))

    def _read(self, round: int) -> tuple[Memo, int]:
        """Return what a round left, and the round before it that this client took part in."""
        path = self._file(round)
        try:
            content = path.read_bytes()
            memo = load(content)
            size = int.from_bytes(content[:8], "little")  # the format's header comes after it
            head = json.loads(content[8 : 8 + size])["__metadata__"]
            return dict(memo), int(head["after"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise SetupError(
                f"{path}: what this client remembered cannot be read ({error}). Restore it, or "
                f"delete {self.folder} to have the client begin anew"
            ) from error

    def _file(self, round: int) -> Path:
        return self.folder / _NAME.format(round)

    def _forget_others(self) -> None:
        """Keep the runs that were answered last: what is remembered has an end."""
        runs = [path for path in self.folder.parent.iterdir() if path.is_dir()]
        for old in sorted(runs, key=lambda path: path.stat().st_mtime)[:-_RUNS]:
            shutil.rmtree(old, ignore_errors=True)

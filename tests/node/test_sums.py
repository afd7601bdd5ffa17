"""Which sums were opened is on the disk: restarts and new runs open nothing a second time."""

import stat
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from fedsim import keys
from fedsim.engine.inprocess import InProcessGrid
from fedsim.errors import SecAggAborted, SetupError
from fedsim.node.sums import Sums
from fedsim.rounds import run_rounds, start_state
from fedsim.secagg import wire
from fedsim.secagg._state import MaskedIn, Release, State, read_state
from fedsim.secagg.lasting import joined, lasting

SECRET = b"\x07" * 32


@dataclass
class Skipping:
    """A carrier that never reaches one node."""

    grid: InProcessGrid
    node: int

    def broadcast(self, content, nodes, kind, **how):
        return self.grid.broadcast(content, [n for n in nodes if n != self.node], kind, **how)

    def scatter(self, contents, kind, **how):
        return self.grid.scatter([own for own in contents if own[0] != self.node], kind, **how)


def state(*, opened=(), sessions=3, session=b""):
    releases = tuple(wire.encode(Release("run", number, (0, 1, 2))) for number in opened)
    return wire.encode(State(1, sessions, releases, session))


def open_session():
    return wire.encode(MaskedIn(b"p", 0.0, SECRET, (0, 1, 2), ()))


def test_what_lasts_has_no_secret_and_all_sums():
    whole = state(opened=[4, 5], session=open_session())
    kept = lasting(whole, 1)
    assert SECRET in whole
    assert SECRET not in kept
    assert joined(kept, whole, 1) == whole
    assert [r.round for r in read_state(kept, 1).releases_read()] == [4, 5]
    with pytest.raises(ValueError, match="state is of client 1"):
        lasting(whole, 2)


def test_a_new_process_and_a_new_run_know_what_was_opened(tmp_path):
    sums = Sums.of(tmp_path / "ledger", "ab" * 32, 1)
    first = state(opened=[1], sessions=1)
    assert sums.answer(b"", lambda held: (first, "answer")) == "answer"
    assert stat.S_IMODE(sums.path.stat().st_mode) == 0o600
    seen = []
    again = Sums.of(tmp_path / "ledger", "ab" * 32, 1)
    again.answer(b"", lambda held: (seen.append(held) or held, None))  # of Flower: nothing is left
    assert read_state(seen[0], 1).sessions == 1
    assert [r.round for r in read_state(seen[0], 1).releases_read()] == [1]


def test_what_cannot_be_kept_is_not_answered(tmp_path):
    sums = Sums.of(tmp_path, "ab" * 32, 1)
    sums.path.mkdir()
    with pytest.raises(SetupError):
        sums.answer(b"", lambda held: (held, "answer"))
    sums.path.rmdir()
    sums.path.write_bytes(b"nonsense")
    asked = Counter()
    with pytest.raises(SetupError, match="cannot be read"):
        sums.answer(b"", lambda held: (asked.update("x"), held))
    assert not asked


def test_a_second_sum_without_one_client_is_refused_by_nodes_that_were_started_again(hospitals):
    """The server that wants one client's update: the same round, in a new run, without it."""
    now = datetime.now(UTC).replace(microsecond=0)
    made = keys.init(
        hospitals.root / "keys", profile="standard", hosts=["localhost"], now=now, days=9,
        authority_days=9,
    )  # fmt: skip
    for folder in hospitals.folders:
        keys.add(made, folder.name, now=now, days=9)
    for folder in hospitals.folders:
        own = made.node(folder.name) / "identity.key"
        for name, source in (
            ("identity.key", own), ("identities.json", made.identities),
            ("ca.crt", made.authority / "ca.crt"),
        ):  # fmt: skip
            (folder / name).write_bytes(source.read_bytes())
            (folder / name).chmod(0o600)
    authority = (made.authority / "ca.crt").read_bytes()
    directory = keys.load_identities(made.identities, authority).directory
    config = hospitals.config(secure_sum={"name": "secagg", "min_cohort": 2}, rounds={"count": 1})

    def run(without=None):
        grid = hospitals.grid(config)  # another run of Flower's: it remembers nothing
        server, nodes = hospitals.server(config), grid.population.nodes
        carrier = grid if without is None else Skipping(grid, nodes[without])
        return next(run_rounds(carrier, nodes, server, start_state(server), directory=directory))[0]

    assert not any(client.lost for client in run().clients)
    with pytest.raises(SecAggAborted) as refused:
        run(without=1)
    told = {record.client: record.lost for record in refused.value.records}
    assert all("1 clients differ from a sum of this round" in told[client] for client in (0, 2))
    assert not any(client.lost for client in run().clients)  # the same sum tells nothing new

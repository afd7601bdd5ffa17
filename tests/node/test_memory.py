"""What clients remember is on the disk: through restarts, as long as it may be needed."""

import itertools
import stat

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.clients._quiet import LostClientError
from fedsim.errors import SetupError
from fedsim.node.approval import RefusedError
from fedsim.node.memory import Memory

EXPERIMENT = "ab" * 32
SCAFFOLD = {"strategy": {"name": "scaffold"}, "local": {"name": "scaffold", "batch_size": 8}}


@pytest.fixture
def memory(tmp_path):
    return Memory.of(tmp_path / "memory", EXPERIMENT, "7")


def memo(value):
    return {"own": torch.full((3,), float(value)), "count": torch.tensor(value)}


def value(found):
    return int(found["count"]) if found else 0


def test_a_round_begins_with_what_the_one_before_it_left(memory):
    assert memory.before(1) == {}
    memory.keep(1, memo(1))
    memory.keep(4, memo(4))  # it was not drawn for rounds 2 and 3
    assert [value(memory.before(n)) for n in (1, 2, 4, 5, 9)] == [0, 1, 1, 4, 4]
    found = memory.before(5)
    assert found["own"].dtype == torch.float32
    assert torch.equal(found["own"], torch.full((3,), 4.0))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=8))
def test_as_if_nothing_was_ever_answered_twice(tmp_path_factory, moves):
    """The server goes back by up to two answers, asks for those again and goes on: a plain list."""
    memory = Memory.of(tmp_path_factory.mktemp("memory"), EXPERIMENT, "7")
    rounds, stamp, left = [], 0, {0: 0}
    for on, back in moves:
        again = rounds[max(len(rounds) - back, 0) :]
        rounds.append((rounds[-1] if rounds else 0) + on)
        for number in [*again, rounds[-1]]:
            last = max(n for n in (0, *rounds) if n < number)
            assert value(memory.before(number)) == left[last]
            stamp += 1
            left[number] = stamp
            memory.keep(number, memo(stamp))
    assert len(list(memory.folder.iterdir())) <= 3


def test_what_is_forgotten_is_not_made_up(memory):
    for number in range(1, 8):
        memory.keep(number, memo(number))
    assert [value(memory.before(n)) for n in (6, 7)] == [5, 6]
    with pytest.raises(LostClientError, match=r"after round 4 is forgotten.*round 6 at most"):
        memory.before(5)
    with pytest.raises(LostClientError):
        memory.before(1)


def test_only_the_last_runs_are_remembered(tmp_path):
    import os

    for run in range(20):
        made = Memory.of(tmp_path, EXPERIMENT, str(run))
        made.keep(1, memo(run + 1))
        os.utime(made.folder, (run, run))
    assert len(list(tmp_path.iterdir())) == 8
    assert value(Memory.of(tmp_path, EXPERIMENT, "19").before(2)) == 20
    assert Memory.of(tmp_path, EXPERIMENT, "3").before(2) == {}
    assert Memory.of(tmp_path, "cd" * 32, "19").before(2) == {}


def test_it_is_the_owners_alone_and_whole(memory):
    memory.keep(1, memo(1))
    (path,) = memory.folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(p.stat().st_mode) for p in (memory.folder, memory.folder.parent)} == {
        0o700
    }
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(SetupError, match=r"cannot be read"):
        memory.before(2)


def test_a_disk_that_cannot_be_written_is_said_and_nothing_is_lost(memory):
    memory.keep(1, memo(1))
    (memory.folder / "00000002.safetensors").mkdir()
    with pytest.raises(SetupError, match="cannot write"):
        memory.keep(2, memo(2))
    (memory.folder / "00000002.safetensors").rmdir()
    assert value(memory.before(2)) == 1
    assert [p.name for p in memory.folder.iterdir()] == ["00000001.safetensors"]


def test_an_algorithm_without_a_memory_leaves_nothing(memory):
    memory.keep(1, {})
    assert not memory.folder.parent.exists()


@pytest.mark.parametrize("run", ["", "../../x", "-1", "1" * 21, "a"])
def test_a_server_cannot_name_other_places(run, tmp_path):
    with pytest.raises(RefusedError, match="no number of a run"):
        Memory.of(tmp_path, EXPERIMENT, run)


def hashes(records):
    return [record.model_sha256 for record in records]


def test_nodes_that_restart_before_every_message_come_to_the_bits_of_a_simulation(hospitals):
    config = hospitals.config(**SCAFFOLD, rounds={"count": 3, "cohort": 2})
    whole = hashes(hospitals.simulated(config))
    assert hashes(hospitals.run(config, state=RecordDict)) == whole
    assert all(len(list((f / "memory").iterdir())) == 1 for f in hospitals.folders)
    assert hashes(hospitals.run(config, state=RecordDict)) == whole  # another run begins anew


def test_flower_is_not_given_what_is_on_the_disk(hospitals):
    states = []

    def state():
        states.append(RecordDict())
        return states[-1]

    hospitals.run(hospitals.config(**SCAFFOLD), state=state)
    assert len(states) == 6
    assert all(not found for found in states)


@pytest.mark.slow
def test_a_run_that_goes_on_remembers_its_first_stretch(hospitals):
    from fedsim.rounds import ServerState, run_rounds, start_state

    config = hospitals.config(**SCAFFOLD, rounds={"count": 4})
    server = hospitals.server(config)
    whole = hashes(hospitals.simulated(config))

    def stretch(start, first, most):
        grid = hospitals.grid(config, state=RecordDict, first=first)
        rounds = run_rounds(grid, grid.population.nodes, server, start)
        found = list(itertools.islice(rounds, most))
        return hashes(record for record, _ in found), found[-1][1]

    done, _ = stretch(start_state(server), "", 3)
    number = str(hospitals.last_run)
    _, after_two = stretch(start_state(server), number, 2)  # killed: it began again, and got to 2
    again, _ = stretch(ServerState(2, after_two.strategy), number, 9)
    assert done + again[1:] == whole
    assert again[0] == whole[2]
    other, _ = stretch(ServerState(2, after_two.strategy), "", 9)
    assert not np.array_equal(other, again)  # it has another memory

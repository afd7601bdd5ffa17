"""A synchronous round by the virtual clock, on traces small enough to be worked out by hand."""

import math

import pytest

from fedsim.clock import Rules, timetable
from fedsim.devices import Device, Fleet, Periods, Work

WORK = Work(down_bytes=1e6, examples=100, flops=1e7, up_bytes=1e6)  # 1 s down, 1 s up at 1 MB/s


def fleet(speeds, times=None):
    """Devices at so many FLOP/s; `times` has the seconds at which a client leaves for good."""
    own = times or {}

    def when(client):
        return Periods(((0.0, own.get(client, 1e6)),), 1e6)

    return Fleet(lambda client: Device(speeds[client], 1e6, 1e6, 4.0, 1.0, 2.0, 0.25), when)


# A task is 1e9 operations: clients compute for 1, 2, 4 and 8 seconds, and take 3, 4, 6 and 10.
SPEEDS = [1e9, 5e8, 2.5e8, 1.25e8]
WORKS = dict.fromkeys(range(4), WORK)


def test_a_round_takes_as_long_as_its_slowest_client():
    table = timetable(fleet(SPEEDS), WORKS, 100.0, Rules(wanted=4))
    assert (table.began_s, table.ended_s) == (100.0, 110.0)
    assert set(table.epochs) == {0, 1, 2, 3}
    assert table.seconds == {0: 3.0, 1: 4.0, 2: 6.0, 3: 10.0}
    # 1 J down, 4 W computing, 2 J up; then waiting at 0.25 W until second 10.
    assert table.joules == {0: 7 + 7 / 4, 1: 11 + 6 / 4, 2: 19 + 4 / 4, 3: 35.0}
    assert not table.lost


def test_late_clients_are_left_out_and_work_until_the_deadline():
    table = timetable(fleet(SPEEDS), WORKS, 0.0, Rules(wanted=4, deadline_s=5.0))
    assert table.ended_s == 5.0
    assert list(table.epochs) == [0, 1]
    assert table.lost[3] == "late: it takes 10 s, and has 5 (simulated)"
    assert table.joules[2] == 1 + 4 * 4  # computing is all it got to
    assert table.seconds[3] == 5.0
    assert table.downloads == {0, 1, 2, 3}


def test_a_deadline_that_everybody_keeps_changes_nothing():
    table = timetable(fleet(SPEEDS), WORKS, 0.0, Rules(wanted=4, deadline_s=10.0))
    assert table == timetable(fleet(SPEEDS), WORKS, 0.0, Rules(wanted=4))


def test_the_first_to_answer_count_where_more_are_asked():
    table = timetable(fleet(SPEEDS), WORKS, 0.0, Rules(wanted=2))
    assert table.ended_s == 4.0
    assert list(table.epochs) == [0, 1]
    assert table.lost[2] == "not needed: 2 had answered after 4 s (simulated)"
    assert table.joules[2] == 1 + 3 * 4  # it stops when the round ends
    tie = timetable(fleet([1e9] * 4), WORKS, 0.0, Rules(wanted=2))
    assert list(tie.epochs) == [0, 1]


def test_who_is_away_or_leaves_is_lost():
    times = {0: 1e-9, 2: 2.5}
    table = timetable(fleet(SPEEDS, times), WORKS, 1.0, Rules(wanted=4))
    assert table.lost[0] == "offline (simulated)"
    assert table.lost[2] == "went offline after 1.5 s (simulated)"
    assert table.joules[0] == 0
    assert table.joules[2] == 1 + 0.5 * 4
    assert table.downloads == {1, 2, 3}
    assert table.ended_s == 11.0  # the last one that is waited for
    gone = timetable(fleet(SPEEDS, {3: 9.0}), WORKS, 1.0, Rules(wanted=4))
    assert gone.ended_s == 9.0  # nobody else is waited for, and it is known to be gone


@pytest.mark.parametrize(
    ("deadline", "epochs"), [(10.0, [4, 4, 4, 4]), (6.0, [4, 4, 4, 2]), (4.0, [4, 4, 2, 1])]
)
def test_late_clients_do_as_many_whole_epochs_as_they_have_time_for(deadline, epochs):
    # Of four epochs, client 3 takes 2 s for each, client 2 one; 2 s go by sending.
    rules = Rules(wanted=4, deadline_s=deadline, epochs=4)
    table = timetable(fleet(SPEEDS), WORKS, 0.0, rules)
    assert [table.epochs[client] for client in range(4)] == epochs
    assert table.ended_s <= deadline
    assert table.seconds[3] == 2.0 + 2.0 * epochs[3]


def test_who_has_no_time_for_one_epoch_is_late():
    table = timetable(fleet(SPEEDS), WORKS, 0.0, Rules(wanted=4, deadline_s=3.5, epochs=4))
    assert table.epochs == {0: 4, 1: 3, 2: 1}
    assert table.lost[3].startswith("late")


def test_nobody_asked_takes_no_time():
    assert timetable(fleet(SPEEDS), {}, 7.0, Rules(wanted=3)).ended_s == 7.0


def test_the_order_in_which_clients_are_named_changes_nothing():
    rules = Rules(wanted=3, deadline_s=7.0)
    first = timetable(fleet(SPEEDS), WORKS, 0.0, rules)
    assert first == timetable(fleet(SPEEDS), dict(reversed(WORKS.items())), 0.0, rules)
    assert math.fsum(first.joules.values()) > 0

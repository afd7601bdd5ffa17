"""What the growth benchmark says of its measurements."""

import pytest


def rows(*seconds):
    return [{"seconds": each, "memory": 300.0, "peak": 360.0, "stored": 0.01} for each in seconds]


def test_a_slow_turn_changes_nothing(bench):
    levelled = bench("growth").levelled
    assert levelled([[1.0, 2.0, 4.0], [3.0, 6.0, 12.0], [1.0, 2.0, 4.0]]) == pytest.approx(
        [1, 2, 4]
    )
    # One run was disturbed in one turn: the medians hardly see it.
    disturbed = levelled([[1.0, 2.0, 4.0], [9.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    assert disturbed == pytest.approx([1, 2, 4])


def test_runs_take_turns_and_their_memory_is_told(bench, tmp_path):
    found = bench("growth").in_turns(tmp_path, [(100, 5), (100, 20)], 6)
    assert all(0 < row["seconds"] < 60 and 50 < row["memory"] <= row["peak"] for row in found)
    assert found[0]["seconds"] < found[1]["seconds"]


def test_the_most_and_the_least_are_compared_wherever_they_stand(bench):
    growth = bench("growth")
    time, memory, peak = growth.independence(rows(1.0, 1.12, 1.05, 1.0))
    assert time == "- time, most by least: 1.120 (target ≤ 1.100) FAIL"
    assert memory.endswith("PASS")
    assert peak.endswith("PASS")
    assert growth.independence(rows(1.0, 1.09))[0].endswith("PASS")


def test_what_is_not_linear_in_the_cohort_fails(bench):
    growth = bench("growth")
    line, said = growth.linearity([0.01 + 0.003 * cohort for cohort in growth.COHORTS])
    assert line == "- 3.00 ms per client and 10 ms per round"
    assert said.endswith("PASS")
    assert growth.linearity([1e-5 * cohort**2 for cohort in growth.COHORTS])[1].endswith("FAIL")

"""What the side-by-side benchmark makes of its measurements, and how it watches an engine."""

import argparse
import os
import sys

import pytest

#: Prints figures as an engine does, after a child that left its session held 60 MB for a second.
ENGINE = """
import subprocess, sys, time
child = "import time; held = bytearray(60 << 20); held[::4096] = b'1' * len(held[::4096]); "
child += "time.sleep(1.5)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(1.5)
import workloads
now = time.perf_counter()
print("something else")
print(workloads.figures([now - 1.0, now - 0.6, now - 0.4, now], tier="resident", block_size=None))
"""


def record(name, cycle, median, **facts):
    return {"name": name, "cycle": cycle, "median": median, "start_up": 2.0, "memory": 300, **facts}


RECORDS = [
    record("W2 floor", "a", 0.4),
    record("W2 floor", "b", 0.8),
    record("W2 fedsim, low-rank", "a", 0.04, tier="low-rank", block_size=125),
    record("W2 fedsim, low-rank", "b", 0.12, tier="low-rank", block_size=125),
    record("W2 fedsim, low-rank", "c", 9.0, tier="low-rank", block_size=None),
    record("W2 pfl-research", "b", 0.6),
]


def test_ratios_are_of_the_same_cycle(bench):
    tables = bench("tables")
    assert tables.ratios(RECORDS, "W2 fedsim, low-rank", "W2 floor") == pytest.approx([0.1, 0.15])
    assert tables.ratios(RECORDS, "W2 pfl-research", "W2 fedsim, low-rank") == pytest.approx([5])
    assert tables.ratios(RECORDS, "W2 floor", "W2 floor, Adam") == []


def test_the_table_has_a_line_for_all_that_was_measured(bench):
    run, tables = bench("run"), bench("tables")
    lines = tables.table(run.engines(), RECORDS, {"W1": 50, "W2": 1000}).splitlines()
    assert len(lines) == 2 + 3
    cells = [cell.strip() for cell in lines[3].strip("|").split("|")]
    assert cells[:5] == ["W2", "fedsim, low-rank", "3", "0.120", "8333"]
    assert cells[5:8] == ["0.125 (0.1 0.15)", "0.2", "-"]
    assert cells[8:] == ["2.0", "300", "low-rank, 125; low-rank, one by one"]


def test_requirements_are_shown_met_or_not(bench):
    lines = bench("tables").comparisons(RECORDS).splitlines()
    assert "| W2 fedsim, low-rank / floor | 0.125 (0.1 0.15) | ≤ 0.15 | PASS |" in lines
    assert "| W2 pfl-research / fedsim, low-rank | 5 (5) | ≥ 10 | FAIL |" in lines
    assert "| W1 fedsim, auto / floor | - | ≤ 1.05 | not measured |" in lines
    names = {engine.name for engine in bench("run").engines()}
    for target in bench("tables").TARGETS:
        assert {target.over, target.under} <= names


def test_rows_are_chosen_by_name_with_their_floors(bench):
    run = bench("run")
    options = argparse.Namespace(only="W1 fedsim|Adam", pfl=None, flower=False)
    names = [row.name for row in run.chosen(run.engines(), options)]
    assert names[0] == "W1 floor"
    assert names[-2:] == ["W2 floor, Adam", "W2 fedsim, vectorized, Adam"]
    assert "W2 floor" not in names
    options = argparse.Namespace(only="W2 pfl", pfl="python", flower=False)
    names = [row.name for row in run.chosen(run.engines(), options)]
    assert names == ["W2 floor", "W2 pfl-research"]


def test_memory_of_processes_that_left_is_counted(bench, tmp_path):
    measuring = bench("measuring")
    path = os.pathsep.join(sys.path[:2])
    found = measuring.watch([sys.executable, "-c", ENGINE], tmp_path, {"PYTHONPATH": path})
    assert found["seconds"] == pytest.approx([0.4, 0.2, 0.4])
    assert found["median"] == pytest.approx(0.3)
    assert found["start_up"] > 1.5 - 0.6 - 0.3
    assert found["memory"] > 60
    assert found["tier"] == "resident"
    with pytest.raises(measuring.EngineError, match="no module"):
        measuring.watch([sys.executable, "-c", "raise SystemExit('no module')"], tmp_path, {})


def test_a_table_is_put_between_its_marks(bench, tmp_path):
    page = bench("page")
    file = tmp_path / "page.md"
    file.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n", encoding="utf-8")
    page.put("x", "\n".join(page.table(["p", "q"], [["1", "\\2"]])), file)
    middle = "| p | q |\n|---|---|\n| 1 | \\2 |"
    assert file.read_text() == f"a\n<!-- x: begin -->\n{middle}\n<!-- x: end -->\nb\n"
    with pytest.raises(ValueError, match="has no marks"):
        page.put("y", "", file)

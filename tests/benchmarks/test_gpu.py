"""The GPU benchmark on a CPU, with a few clients: the same code, minutes shorter."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


def launch(*options):
    command = [sys.executable, str(SCRIPT), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_it_runs_on_a_cpu():
    rows = "bare loop|auto|2 workers|vectorized 2, 1 worker"
    done = launch("--device", "cpu", "--small", "--cycles", "1", "--only", rows)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" | ") for line in done.stdout.splitlines()]
    cells = {line[0].removeprefix("| cohort 4, "): line for line in lines if len(line) > 9}
    taken = {
        "fedsim, resident, 2 workers": "resident, one by one",
        "fedsim, vectorized 2, 1 worker": "vectorized, 2",
        "fedsim, vectorized 2, 2 workers": "vectorized, 2",
    }
    assert cells.keys() == {"| engine", "bare loop", "fedsim, auto", *taken}
    assert cells["bare loop"][4] == "1"
    assert {name: cells[name][9] for name in taken} == taken
    assert all(cells[name][6] == "n/a" and float(cells[name][3]) > 0 for name in taken)
    assert cells["fedsim, auto"][9].startswith(("resident", "vectorized"))
    assert "cohort 4, ours to pfl (target 10): not measured" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so():
    done = launch()
    assert done.returncode == 3
    assert done.stdout.count("\n") == 1
    assert "no CUDA device" in done.stdout


def test_rows_cover_tiers_blocks_and_workers(bench):
    gpu = bench("gpu")
    rows = {row.label: row for row in gpu.engines((50,), "cuda", {})}
    assert {
        f"cohort 50, fedsim, resident, {n}" for n in ("1 worker", "2 workers", "4 workers")
    } <= (rows.keys())
    assert '"gpus_per_worker": 0.25' in rows["cohort 50, fedsim, resident, 4 workers"].command[3]
    blocks = [row.command[3] for label, row in rows.items() if "vectorized" in label]
    assert any('"block_size": 50' in block and '"inprocess"' in block for block in blocks)
    assert rows["cohort 50, pfl-research"].processes == 1
    without = gpu.chosen(list(rows.values()), "cohort 50", None)
    assert [row.label for row in without] == [label for label in rows if "pfl" not in label]


def test_speed_is_compared_with_pfl_and_with_the_limits(bench):
    gpu, roofline = bench("gpu"), bench("roofline")
    rows = gpu.engines((50,), "cuda", {})
    seconds = {"bare loop": 0.2, "pfl-research": 0.4, "fedsim, auto": 0.05,
               "fedsim, vectorized 50, 1 worker": 0.02}  # fmt: skip
    records = [
        {"name": f"W1 cohort 50, {label}", "cycle": "a", "median": median, "start_up": 1.0,
         "memory": 9, "gpu": 50.0}
        for label, median in seconds.items()
    ]  # fmt: skip
    limit = roofline.Limits("made", 4e9, 3e8, fp32=1e-4, tf32=2e-5, memory=8e-5)
    cells = gpu.table(rows, records, limit)[-1].split(" | ")
    assert cells[:7] == ["| cohort 50, fedsim, vectorized 50, 1 worker", "1", "0.0200", "2500",
                         "10", "20 (20)", "50"]  # fmt: skip
    assert cells[-2:] == ["25 %", "20 % |"]
    assert gpu.required(rows, records) == [
        "- cohort 50, fedsim, auto: 8 (8) times as fast as pfl (target 10) FAIL",
        "- cohort 50, fedsim, vectorized 50, 1 worker: 20 (20) times as fast as pfl "
        "(target 10) PASS",
    ]


def test_the_work_of_a_client(bench):
    """By hand; torch's own FlopCounterMode comes to 99.456 MFLOP an example too."""
    flop, moved = bench("roofline").work("W1")
    products = {"conv1": 27 * 32 * 900, "conv2": 288 * 64 * 784, "fc": 12544 * 128 + 1280}
    assert flop / 50 == pytest.approx(99.456e6, rel=1e-5)
    assert flop == 50 * 2 * (3 * sum(products.values()) - products["conv1"])
    weights = 896 + 18496 + 12544 * 128 + 128 + 1290
    activations = 2 * 32 * 900 + 2 * 64 * 784 + 3 * 12544 + 3 * 128 + 10
    assert moved == 4 * (5 * 6 * weights + 50 * 4 * activations)


def test_how_busy_the_gpu_was_counts_the_rounds_that_count(bench, monkeypatch):
    roofline = bench("roofline")
    monkeypatch.setattr(roofline, "_meter", lambda: lambda: 70.0)
    monkeypatch.setattr(roofline, "_PAUSE_S", 0.01)
    began = time.time()
    with roofline.Utilization("cuda") as busy:
        time.sleep(0.2)
    assert busy.during({"first_end": began, "seconds": [9.0, 0.1, 0.1]}) == 70.0
    assert busy.during({"first_end": began + 60, "seconds": [9.0, 0.1]}) is None
    with roofline.Utilization("cpu") as idle:
        assert idle.during({"first_end": began, "seconds": [1.0, 1.0]}) is None

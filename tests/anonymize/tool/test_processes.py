"""What only real processes show: kill -9, Ctrl-C, a full disk, little memory."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tomli_w

from fedsim.anonymize.files import chunks, open_table

from .conftest import COLUMNS, hospital


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "schema.toml").write_text(tomli_w.dumps({"columns": COLUMNS}))
    return tmp_path


def start(folder, *arguments, limit="", name="in.csv", out="out.csv"):
    """Start the command in a process of its own, with a limit of its resources."""
    code = f"import resource\n{limit}\nfrom fedsim.cli import main\nmain()"
    command = ["anonymize", "run", name, "--schema", "schema.toml", "--output", out, *arguments]
    # pyarrow's own pools reserve a gigabyte that they do not use, which a limit would count.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *command], env=environment, cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def until(process, stage):
    for line in process.stderr:
        if line.startswith(stage):
            return
    pytest.fail(f"it ended before {stage}")


def left(folder):
    known = {"in.csv", "schema.toml", ".fedsim-pins"}
    return {path.name for path in folder.iterdir()} - known


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("verifying", signal.SIGKILL),
        ("writing", signal.SIGINT),
        pytest.param("reading", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("writing", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("reading", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("verifying", signal.SIGINT, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
@pytest.mark.slow
def test_a_process_that_ends_leaves_the_old_file(folder, stage, number):
    hospital(40_000).to_csv(folder / "in.csv", index=False)
    for _ in range(3):  # on a busy machine it may have ended before the signal arrives
        (folder / "out.csv").write_text("old")
        process = start(folder)
        until(process, stage)
        process.send_signal(number)
        process.communicate(timeout=60)
        if process.returncode != 0:
            break
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert (folder / "out.csv").read_text() == "old"
    for name in left(folder) - {"out.csv"}:
        # of kill -9, a file under no name that anybody uses: rows of it are whole ones
        assert number == signal.SIGKILL
        assert name.startswith(".out.csv.")
        assert name.endswith(".tmp")
        assert "Person" not in (folder / name).read_text()
    process = start(folder, "--json")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert json.loads(out)["rows"] == 40_000


@pytest.mark.parametrize("most", [3_000, 60_000])
def test_a_full_disk_leaves_nothing(folder, most):
    """A limit on the size of files, which a write fails at as it does on a full disk."""
    hospital(4_000).to_csv(folder / "in.csv", index=False)
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))"
    process = start(folder, limit=limit)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "cannot write" in err
    assert left(folder) == set()


@pytest.mark.slow
def test_a_file_larger_than_memory(folder):
    """More text than a process may have memory, its libraries (330 MB) included."""
    piece = hospital(20_000)
    piece["note"] = ["x" * 2_000 + str(i) for i in range(len(piece))]
    with (folder / "in.csv").open("w") as file:
        for i in range(14):
            piece.to_csv(file, index=False, header=i == 0)
    most = 560_000_000
    assert (folder / "in.csv").stat().st_size > most
    limit = f"resource.setrlimit(resource.RLIMIT_DATA, ({most}, {most}))"
    process = start(folder, "--json", limit=limit)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert json.loads(out)["rows"] == 280_000
    counts: dict[tuple[str, ...], int] = {}
    for batch in chunks(open_table(folder / "out.csv"), ["age", "sex", "zip"]):
        for row in zip(*batch.to_pydict().values(), strict=True):
            counts[row] = counts.get(row, 0) + 1
    assert sum(counts.values()) == 280_000
    assert min(counts.values()) >= 5


@pytest.mark.slow
def test_too_little_memory_is_said(folder):
    hospital(1_000_000).to_csv(folder / "in.csv", index=False)
    limit = "resource.setrlimit(resource.RLIMIT_DATA, (390_000_000, 390_000_000))"
    process = start(folder, limit=limit)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "too little memory" in err
    assert left(folder) == set()


def test_large_numbers_of_categories(folder):
    """10^4 categories in a taxonomy of two levels; each sensitive value is another one."""
    rng = np.random.default_rng(0)
    names = [f"c{i:05d}" for i in range(10_000)]
    paths = [[name, f"g{i // 100}", "*"] for i, name in enumerate(names)]
    frame = pd.DataFrame({"c": rng.choice(names, 20_000), "s": np.arange(20_000)})
    frame.to_csv(folder / "in.csv", index=False)
    columns = {
        "c": {"role": "quasi", "hierarchy": {"name": "taxonomy", "paths": paths}},
        "s": {"role": "sensitive"},
    }
    (folder / "schema.toml").write_text(tomli_w.dumps({"columns": columns}))
    process = start(folder, "--json", "-k", "10")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["reached"]["k"] >= 10

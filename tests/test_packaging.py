"""What a wheel holds: real files under `fedsim`, nothing beside it."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_wheel_holds_the_linked_folders_and_the_data_files(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"fedsim"}
    for needed in (
        "strategies/fedadam.py",
        "clients/app.py",
        "data/partition/dirichlet.py",
        "experiments/digits.toml",
        "anonymize/schemas/adult.toml",
        "report/templates/report.html",
        "report/schema.json",
        "py.typed",
    ):
        assert f"fedsim/{needed}" in names


def test_versions_agree():
    import tomllib

    import fedsim

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == fedsim.__version__
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for requirement in needed:
        name = re.split(r"[;\[<>= ]", requirement)[0]
        assert name.lower() in pinned, f"{name} is not in constraints.txt"

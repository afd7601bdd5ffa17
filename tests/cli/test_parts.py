"""`fedsim strategies list` and its like."""

import json

import pytest
from typer.testing import CliRunner

from fedsim import registry
from fedsim.cli._app import app
from fedsim.cli.parts import apps


@pytest.mark.parametrize("command", sorted(apps()))
def test_every_kind_of_part_has_a_list(command):
    done = CliRunner().invoke(app, [command, "list", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert [part["name"] for part in found["parts"]] == list(registry.names(found["group"]))


def test_the_table_says_what_is_legal():
    done = CliRunner().invoke(app, ["strategies", "list"])
    rows = {line.split()[0]: line.split()[1:] for line in done.output.splitlines() if line.strip()}
    assert rows["fedavg"][:8] == ["yes"] * 5 + ["McMahan", "et", "al."]
    assert rows["krum"][:2] == ["no", "no"]


def test_a_list_in_json_has_the_reasons():
    done = CliRunner().invoke(app, ["strategies", "list", "--json"])
    krum = next(p for p in json.loads(done.output)["parts"] if p["name"] == "krum")
    assert krum["legality"]["secure_sum"] is False
    assert "single update" in krum["refused"]["secure_sum"]

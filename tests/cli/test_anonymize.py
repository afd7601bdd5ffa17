"""`fedsim anonymize`: from a raw file to a verified one, and what can be wrong with it."""

import json
import re
from importlib import resources

import jsonschema
import pandas as pd
import pytest
import tomli_w

from fedsim.cli._app import main

SCHEMA = {
    "columns": {
        "name": {"role": "direct"},
        "age": {
            "role": "quasi",
            "hierarchy": {"name": "intervals", "min": 0, "max": 99, "widths": [5, 10, 20]},
        },
        "sex": {"role": "quasi", "hierarchy": {"name": "categories", "values": ["f", "m"]}},
        "diagnosis": {"role": "sensitive"},
    }
}
ROWS = [f"Ann{i},{i % 90},{'fm'[i % 2]},{['flu', 'cold', 'gout'][i % 3]}" for i in range(200)]
TABLE = "name,age,sex,diagnosis\n" + "\n".join(ROWS) + "\n"


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """Run a command line as `main` does; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDSIM_PSEUDONYM_KEY_FILE", raising=False)
    (tmp_path / "in.csv").write_text(TABLE)
    (tmp_path / "s.toml").write_text(tomli_w.dumps(SCHEMA))

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["fedsim", "anonymize", *map(str, arguments)])
        with pytest.raises(SystemExit) as info:
            main()
        output = capsys.readouterr()
        return info.value.code or 0, output.out, output.err

    return call


RUN = ("run", "in.csv", "--schema", "s.toml", "--output", "out.csv")


def test_from_a_raw_file_to_a_report(cli, tmp_path):
    code, out, _ = cli("inspect", "in.csv", "--output", "draft.toml")
    assert code == 0
    assert out.splitlines()[-1] == "draft.toml"
    run = ("run", "in.csv", "--schema", "draft.toml", "--output", "out.csv")
    code, _, err = cli(*run)
    assert code == 2
    assert "confirmed = False" in err
    draft = tmp_path / "draft.toml"
    draft.write_text(draft.read_text().replace("confirmed = false", "confirmed = true"))
    code, out, err = cli(*run, "-k", 8, "--report", "r.html")
    assert code == 0, err
    assert out.splitlines()[-3:] == ["r.html", "r.json", "out.csv"]
    assert "reading" in err
    assert "verifying" in err
    code, out, _ = cli("verify", "out.csv", "--schema", "draft.toml", "-k", 8)
    assert code == 0
    assert out.splitlines()[-1] == "every declared property holds"
    page = (tmp_path / "r.html").read_text()
    code, out, _ = cli("report", "r.json", "--output", "again.html")
    assert code == 0
    assert (tmp_path / "again.html").read_text() == page
    raw = pd.read_csv("in.csv")
    assert not any(name in (tmp_path / "out.csv").read_text() for name in raw["name"])


def test_json_is_one_object_and_the_last_line(cli):
    code, out, _ = cli("inspect", "in.csv", "--json")
    found = json.loads(out)
    assert (code, found["status"]) == (0, "ok")
    assert [c["role"] for c in found["columns"]] == ["direct", "quasi", "quasi", "sensitive"]
    code, out, _ = cli(*RUN, "--json")
    found = json.loads(out)
    assert (code, found["exit_code"], found["output"]) == (0, 0, "out.csv")
    assert found["reached"]["k"] >= 5
    code, out, _ = cli("verify", "out.csv", "--schema", "s.toml", "-k", 150, "--json")
    found = json.loads(out)
    assert (code, found["exit_code"], found["status"]) == (1, 1, "failed")
    assert found["wrong"][0].endswith("declared 150")
    code, out, _ = cli(*RUN, "-k", 1, "--json")
    found = json.loads(out)
    assert (code, found["exit_code"]) == (2, 2)
    assert found["problems"][0]["path"] == "k"


def test_every_model_can_be_asked_for(cli):
    wanted = ("--diversity", "recursive", "-l", 2, "-c", 2, "-t", 0.5, "--delta", 3)
    code, out, err = cli(*RUN, *wanted, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["reached"]["sensitive"][0]["recursive"] >= 2
    assert found["reached"]["sensitive"][0]["t_all"] <= 0.5
    assert cli("verify", "out.csv", "--schema", "s.toml", *wanted)[0] == 0


@pytest.mark.parametrize("recoding", ["nodes", "sets", "full-domain"])
def test_every_recoding_and_a_population(cli, recoding):
    options = ("--recoding", recoding, "--population", "in.csv", "--k-map", 9)
    code, out, err = cli(*RUN, *options, "--json")
    assert code == 0, err
    assert json.loads(out)["reached"]["k_map"] >= 9


def test_a_second_cut_is_refused_with_the_way_out(cli):
    assert cli(*RUN)[0] == 0
    assert cli(*RUN)[0] == 0
    code, _, err = cli(*RUN, "-k", 9)
    assert code == 2
    assert "--again REASON" in err
    code, out, _ = cli(*RUN, "-k", 9, "--again", "the board asked for nine", "--json")
    assert code == 0
    assert json.loads(out)["pin"]["reason"] == "the board asked for nine"


def test_pseudonyms_need_a_key_and_get_it_from_a_file(cli, tmp_path):
    schema = {
        "columns": {**SCHEMA["columns"], "name": {"role": "direct", "treatment": "pseudonym"}}
    }
    (tmp_path / "s.toml").write_text(tomli_w.dumps(schema))
    code, _, err = cli(*RUN)
    assert code == 2
    assert "columns.name.treatment" in err
    assert not (tmp_path / "out.csv").exists()
    assert cli(*RUN, "--key", "none.key")[0] == 3
    from fedsim.anonymize.pseudonym_keys import new_key_file

    (tmp_path / "a.key").write_bytes(new_key_file())
    (tmp_path / "a.key").chmod(0o600)
    code, _, err = cli(*RUN, "--key", "a.key")
    assert code == 0, err
    assert pd.read_csv("out.csv")["name"].str.len().unique().tolist() == [32]


def test_warnings_of_what_is_let_out(cli, tmp_path):
    text = TABLE.replace("gout", "ann@example.org").replace("cold", "=1+1")
    (tmp_path / "in.csv").write_text(text)
    code, _, err = cli(*RUN)
    assert code == 0
    assert "'diagnosis' has cells that look like email" in err
    assert "a spreadsheet would compute cells of 'diagnosis'" in err
    assert "=1+1" in (tmp_path / "out.csv").read_text()  # left as it is: it is a value


HOSTILE = {
    "no file": (None, {}, 3, "cannot read in.csv"),
    "empty": ("", {}, 2, "is empty"),
    "header only": ("name,age,sex,diagnosis\n", {}, 2, "0 rows, fewer than k"),
    "few rows": ("\n".join(TABLE.splitlines()[:4]), {}, 2, "3 rows, fewer than k"),
    "ragged": (TABLE + "Bob,3\n", {}, 2, "row 202 has 2 cells"),
    "open quote": (TABLE + 'Bob,3,"f,flu\n', {}, 2, "a quote that is not closed"),
    "no name": ("name,age,,diagnosis\na,1,f,x\n", {}, 2, "has no name"),
    "twice": ("name,age,age,sex,diagnosis\na,1,1,f,x\n", {}, 2, "two columns are named 'age'"),
    "encoding": (TABLE.encode() + b"B\xf6b,3,f,flu\n", {}, 2, "--encoding"),
    "undeclared": (TABLE.replace("name,", "name,", 1).replace("diagnosis", "illness", 1), {}, 2,
                   "nobody declared"),
    "constant sensitive": (re.sub(",(flu|cold|gout)\n", ",flu\n", TABLE),
                           {"diagnosis": {"role": "sensitive", "distance": "ordered"}}, 2,
                           "columns.diagnosis.distance"),
    "mixed types": (TABLE + "Bob,thirty,f,flu\n", {}, 2, "row 201"),
    "out of domain": (TABLE + "Bob,120,f,flu\n", {}, 2, "not in the schema's domain"),
    "missing": (TABLE + "Bob,,f,flu\n", {}, 2, "missing = 'own'"),
    "no role": (TABLE, {"sex": {}}, 2, "columns.sex.role"),
    "no hierarchy": (TABLE, {"sex": {"role": "quasi"}}, 2, "columns.sex.hierarchy"),
    "contradiction": (TABLE, {"name": {"role": "direct", "hierarchy": "categories"}}, 2,
                      "columns.name.hierarchy"),
    "nothing quasi": (TABLE, {"age": {"role": "insensitive"}, "sex": {"role": "insensitive"}}, 2,
                      "at least one column with role quasi"),
    "no such role": (TABLE, {"sex": {"role": "public"}}, 2, "columns.sex.role"),
}  # fmt: skip


@pytest.mark.parametrize(("table", "changes", "exit_code", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_input_is_refused_and_nothing_written(
    cli, tmp_path, table, changes, exit_code, words
):
    if table is None:
        (tmp_path / "in.csv").unlink()
    else:
        (tmp_path / "in.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    schema = {"columns": {**SCHEMA["columns"], **changes}}
    (tmp_path / "s.toml").write_text(tomli_w.dumps(schema))
    code, _, err = cli(*RUN)
    assert code == exit_code, err
    assert words in err
    assert "defect" not in err
    assert {p.name for p in tmp_path.iterdir()} <= {"in.csv", "s.toml"}


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (("--output", "in.csv"), 2, "another file than the input"),
        (("--output", "nowhere/out.csv"), 3, "no folder"),
        (("--output", "out.parquet"), 2, "of the input's kind"),
        (("--output", "out.docx"), 2, "ends in one of"),
        (("--max-suppression", "1.5"), 2, "a share >= 0 and < 1"),
        (("-k", "1000"), 2, "fewer than k"),
        (("--diversity", "distinct", "-l", "9"), 2, "3 different values"),
        (("-t", "7"), 2, "t = 7.0"),
        (("--k-map", "5"), 2, "--population"),
        (("--report", "in.txt"), 2, "ends in .html"),
        (("--schema", "none.toml"), 3, "cannot read the schema"),
        (("--separator", ";"), 2, "columns."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_cannot_be(cli, tmp_path, arguments, exit_code, words):
    code, _, err = cli(*RUN, *arguments)
    assert code == exit_code, err
    assert words in err
    assert not (tmp_path / "out.csv").exists()
    assert (tmp_path / "in.csv").read_text() == TABLE


@pytest.mark.parametrize(
    "table",
    [
        TABLE.replace(",f,", ",m,"),
        "\ufeff" + TABLE,
        TABLE.replace("\n", "\r\n"),
        TABLE.replace("flu", "gr\u00fcn \U0001f9ec"),
        TABLE.replace("cold", "x" * 100_000, 1),
        "name,age,sex,diagnosis\n" + "Ann,30,f,flu\n" * 50,
        "name,age,sex,diagnosis\n" + "".join(f"N{i},30,f,ill{i}\n" for i in range(10_000)),
    ],
    ids=[
        *("constant column", "byte order mark", "line ends", "unicode", "huge cell", "all equal"),
        "ten thousand categories",
    ],
)
def test_odd_input_gives_a_table_that_holds(cli, table, tmp_path):
    (tmp_path / "in.csv").write_text(table, newline="")
    assert cli(*RUN)[0] == 0
    assert cli("verify", "out.csv", "--schema", "s.toml")[0] == 0
    assert len(pd.read_csv("out.csv")) == len(table.splitlines()) - 1


def test_a_draft_is_not_written_over_a_schema(cli, tmp_path):
    before = (tmp_path / "s.toml").read_text()
    code, _, err = cli("inspect", "in.csv", "--output", "s.toml")
    assert code == 2
    assert "not overwritten" in err
    assert (tmp_path / "s.toml").read_text() == before


def test_verify_fails_for_columns_that_should_be_gone(cli, tmp_path):
    assert cli(*RUN)[0] == 0
    out = pd.read_csv("out.csv", dtype=str)
    out.assign(name="Ann").to_csv(tmp_path / "bad.csv", index=False)
    code, text, _ = cli("verify", "bad.csv", "--schema", "s.toml")
    assert code == 1
    assert "FAIL column 'name' is direct and should be removed" in text


def test_a_report_that_is_none(cli, tmp_path):
    (tmp_path / "r.json").write_text("{}")
    assert cli("report", "r.json")[0] == 2
    assert cli("report", "none.json")[0] == 3


def test_what_the_tool_prints_as_json_has_a_published_schema(cli, tmp_path):
    code, _, _ = cli(*RUN, "--report", "r.html")
    assert code == 0
    text = (resources.files("fedsim") / "report" / "anonymization.schema.json").read_text()
    jsonschema.validate(json.loads((tmp_path / "r.json").read_text()), json.loads(text))

"""Which source wins, what a key gives away, and that nothing is dropped unsaid."""

import os
from pathlib import Path

import pytest

from fedsim import config as configuration
from fedsim.data.diabetes import Diabetes
from fedsim.data.table import Table
from fedsim.errors import ConfigError

TABLE = ["data.path=patients.csv", "data.target=outcome"]


def load(experiment="digits", overrides=(), environ=None, **options):
    return configuration.load(experiment, overrides, environ or {}, **options)


def problems(*arguments, **options):
    with pytest.raises(ConfigError) as info:
        load(*arguments, **options)
    return {problem.path: problem for problem in info.value.problems}


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "mine.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_what_does_not_fit_together_is_reported_with_what_is_wrong_by_itself():
    found = problems("digits", ["rounds.count=0", "metrics=['acuracy']", "rounds.cohort=21"])
    assert set(found) == {"rounds.count", "metrics"}  # a broken section is not checked further
    found = problems("digits", ["optimizer.lr=0", "metrics=['acuracy']", "rounds.cohort=21"])
    assert set(found) == {"optimizer.lr", "metrics", "rounds.cohort"}
    assert found["rounds.cohort"].accepted == "at most 20, all clients"
    assert found["rounds.cohort"].source == "override 'rounds.cohort=21'"


@pytest.mark.parametrize(
    ("overrides", "path", "hint"),
    [
        ([*TABLE, "data.tset=0.3"], "data.tset", "Did you mean 'test'?"),
        (
            ["partition.by=hospital", "partition.alpha=1"],
            "partition.alpha",
            "It belongs to dirichlet, quantity.",
        ),
        (
            ["partition.alpha=1", "partition.name=iid"],
            "partition.alpha",
            "It belongs to dirichlet, quantity.",
        ),
    ],
)
def test_a_wrong_key_beside_the_one_that_names_the_part_is_not_lost(overrides, path, hint):
    assert problems("digits", overrides)[path].hint == hint


def test_a_wrong_key_in_a_file_that_implies_its_part_is_not_lost(file):
    path = file('[data]\npath = "a.csv"\ntarget = "y"\ntset = 1\n')
    assert problems(path)["data.tset"].source == f"{path}:4"


def test_a_part_that_is_named_is_never_replaced_by_a_key_of_the_same_source(file):
    path = file('[data]\nname = "digits"\npath = "a.csv"\n')
    assert problems(path)["data.path"].hint == "It belongs to documents, parquet, table."
    assert problems("digits", ["data.name=diabetes", *TABLE]).keys() == {"data.path", "data.target"}


def test_a_later_source_replaces_the_part_with_all_that_was_its_own():
    environ = {"FEDSIM__DATA__PATH": "a.csv", "FEDSIM__DATA__TARGET": "y"}
    assert isinstance(load("digits", (), environ).data, Table)
    assert load("digits", ["data.name=diabetes"], environ).data == Diabetes()
    assert load("digits", ["partition={name='iid'}"]).partition.clients == 20
    assert load("digits", ["partition={clients=3}"]).partition.alpha == 0.5  # the default part's


def test_a_table_is_the_same_file_from_every_folder(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("digits", TABLE).data.path == str(tmp_path / "patients.csv")
    assert load("digits", TABLE, folder="/srv").data.path == "/srv/patients.csv"
    path = file('[data]\npath = "sub/a.csv"\ntarget = "y"\n')
    monkeypatch.chdir("/")
    relative = Path(os.path.relpath(path, "/"))
    assert load(relative).data.path == str(tmp_path / "sub" / "a.csv")
    resolved = tmp_path / "elsewhere.toml"
    resolved.write_text(configuration.dump_toml(load(relative)))
    assert load(resolved) == load(relative)


def test_a_run_on_a_table_is_called_after_it_unless_somebody_named_it(file):
    assert load("digits", TABLE).name == "patients"
    assert load("digits", [*TABLE, "name=mine"]).name == "mine"
    assert load("digits", TABLE, {"FEDSIM__NAME": "env"}).name == "env"
    assert load(file('name = "x"\n'), TABLE).name == "x"
    assert load(configuration.to_dict(load()), TABLE).name == "digits"


def test_where_text_is_wanted_a_value_is_text():
    data = load("digits", ["data.path=1.csv", "data.target=2024", "data.client=true"]).data
    assert (data.target, data.client) == ("2024", "true")
    assert load("digits", ["name=1e3"]).name == "1e3"
    assert load("digits", ["metrics=[accuracy, f1]"]).metrics == ("accuracy", "f1")
    assert load("digits", ["model.hidden=[8,4]"]).model.hidden == (8, 4)
    args = ["model.name=a:b", "model.args.size=3", "model.args.kind=wide"]
    assert load("digits", args).model.args == {"size": 3, "kind": "wide"}


@pytest.mark.parametrize("value", ["inf", "nan", "-inf"])
def test_numbers_are_finite(value):
    assert problems("digits", [f"optimizer.lr={value}"])["optimizer.lr"].accepted.startswith(
        "a finite number"
    )


@pytest.mark.parametrize("value", ["{when=2020-01-01}", "{x=[nan]}"])
def test_model_args_are_what_json_and_toml_can_hold(value):
    found = problems("digits", ["model.name=a:b", f"model.args={value}"])
    assert found["model.args"].accepted.startswith("a table of text, finite numbers")


@pytest.mark.parametrize("name", ["a:", ":b", "a.:b", "a:b c", "a:b:c"])
def test_a_model_of_ones_own_is_module_and_function(name):
    assert "module:function" in problems("digits", [f"model.name={name}"])["model.name"].accepted


def test_a_part_given_as_a_value_is_explained():
    found = problems("digits", ["strategy=fedadam"])
    assert found["strategy"].hint == "Did you mean strategy.name=fedadam?"


def test_the_baseline_is_a_mode_and_no_local_algorithm():
    assert "mode=local-only" in problems("digits", ["local.name=local-only"])["local.name"].hint


@pytest.mark.parametrize("text", ["count", "=3", ".count=3", "rounds.=3", "rounds..count=3", ""])
def test_an_override_that_is_none(text):
    assert problems("digits", [text])[text].accepted == "key=value, such as rounds.count=3"


def test_an_override_says_one_thing():
    assert problems("digits", ["seed=3\nmode='pooled'"])["seed"].accepted == "an integer >= 0"


@pytest.mark.parametrize(
    ("content", "place", "accepted"),
    [
        (b"seed = 1\nname = '\xe9'\n", ":2", "text in UTF-8"),
        (b"seed = 1\n\n[rounds\n", ":3", "valid TOML; Expected ']'"),
        (b"seed = 1\nname = [", ":2", "valid TOML"),
        (b"seed = 1\nseed = 2\n", ":2", "valid TOML; Cannot overwrite"),
        (b"seed = " + b"9" * 5000, "", "valid TOML; Exceeds the limit"),
        (b"seed = " + b"[" * 5000, "", "valid TOML; nested less deeply"),
    ],
)
def test_a_file_that_is_no_toml_names_its_line(file, content, place, accepted):
    path = file(content)
    (problem,) = problems(path).values()
    assert problem.source == f"{path}{place}"
    assert problem.accepted.startswith(accepted)


def test_windows_files_are_read(file):
    assert load(file(b"\xef\xbb\xbfseed = 7\r\n[rounds]\r\ncount = 2\r\n")).rounds.count == 2


def test_what_is_no_experiment(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file("seed = 1")
    assert problems("mine")["experiment"].hint == "Did you mean 'mine.toml'?"
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "experiment.toml").write_text("")
    assert problems("new")["experiment"].hint == "Did you mean 'new/experiment.toml'?"
    for name in ("x" * 5000, "x\0y", ""):
        assert "built-in" in problems(name)["experiment"].accepted


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(file):
    path = file("seed = 1")
    path.chmod(0)
    assert "can be read" in problems(path)["experiment"].accepted


def test_keys_that_are_no_text_are_refused():
    assert set(problems({1: 2, "rounds": {3: 4}})) == {"1", "rounds.3"}
    with pytest.raises(ConfigError, match="no such key"):
        configuration.from_dict({1: 2, "rounds": {3: 4}})

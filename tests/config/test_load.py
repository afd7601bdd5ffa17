"""Experiments from four sources; every problem at once, with its place."""

import contextlib
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim import config as configuration
from fedsim.config.schema import PARTS, RunConfig
from fedsim.errors import ConfigError
from fedsim.fields import accepted, fields_of
from fedsim.models import UserModel
from fedsim.registry import load, names


def problems(experiment="digits", overrides=(), environ=None):
    with pytest.raises(ConfigError) as info:
        configuration.load(experiment, overrides, environ or {})
    return {problem.path: problem for problem in info.value.problems}


@pytest.mark.parametrize("name", list(configuration.experiments()))
def test_built_in_experiments_load_and_survive_every_form(name):
    config = configuration.load(name, (), {})
    assert config.name == name
    plain = configuration.to_dict(config)
    assert configuration.from_dict(plain) == config
    assert configuration.from_dict(tomllib.loads(configuration.dump_toml(config))) == config


def test_later_sources_win(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[rounds]\ncount = 2\ncohort = 3\n[optimizer]\nlr = 0.5\n")
    environ = {"FEDSIM__ROUNDS__COUNT": "4", "FEDSIM__ROUNDS__COHORT": "5", "FEDSIM_RUNS": "x"}
    config = configuration.load(file, ["rounds.count=6"], environ)
    assert (config.rounds.count, config.rounds.cohort, config.optimizer.lr) == (6, 5, 0.5)
    assert config.name == "mine"
    assert config.partition.clients == 20  # a default


def test_all_problems_at_once_with_place_and_way_out():
    found = problems(
        "digits",
        [
            "roundz.count=3",
            "rounds.count=0",
            "model.name=cnnn",
            "partition.alfa=1",
            "local.epochs=2.5",
            "strategy.lr='high'",
            "engine.grid=rai",
            "metrics=[1]",
            "nonsense",
        ],
        {"FEDSIM__ROUNDS__COHORT": "a few"},
    )
    assert found["roundz"].hint == "Did you mean 'rounds'?"
    assert found["roundz"].source == "override 'roundz.count=3'"
    assert found["rounds.count"].accepted == "an integer >= 1"
    assert found["rounds.cohort"].source == "environment variable FEDSIM__ROUNDS__COHORT"
    assert found["model.name"].hint == "Did you mean 'cnn'?"
    assert "lenet" in found["model.name"].accepted
    assert found["partition.alfa"].hint == "Did you mean 'alpha'?"
    assert found["local.epochs"].value == 2.5
    assert found["strategy.lr"].accepted == "a number > 0"
    assert found["engine.grid"].accepted == "one of ray, inprocess"
    assert found["metrics"].accepted == "a list, each text"
    assert found["nonsense"].accepted.startswith("key=value")
    assert len(found) == 10


def test_a_local_algorithm_that_is_refused_is_not_asked_what_it_is():
    found = problems("digits", ["transform.name=lora", "local.name=fml", "local.models=['']"])
    assert list(found) == ["local.models"]


def test_a_path_of_an_unknown_user_stays_as_it_is(tmp_path):
    content = {"devices": {"name": "fedscale", "capacity": "~no-such-user/a.csv"}}
    config = configuration.load(content, (), {}, folder=tmp_path)
    assert config.devices.capacity == str(tmp_path / "~no-such-user/a.csv")


def test_a_file_error_names_the_line(tmp_path):
    file = tmp_path / "bad.toml"
    file.write_text(
        "# a comment\nseed = -1\n[rounds]\ncount = 3\ncohrt = 5\n\n[partition]\n"
        'name = "iid"\nalpha = 0.1\n[optimizer]\nname = "sgd"\nnesterov = true\n'
    )
    found = problems(file)
    assert found["seed"].source == f"{file}:2"
    assert found["rounds.cohrt"].source == f"{file}:5"
    assert found["partition.alpha"].source == f"{file}:9"
    assert found["partition.alpha"].hint == "It belongs to dirichlet, quantity."
    assert found["optimizer.nesterov"].source == f"{file}:12"


def test_broken_toml_names_the_line(tmp_path):
    file = tmp_path / "broken.toml"
    file.write_text("name = 'x'\n[rounds\ncount = 3\n")
    assert "line 2" in str(problems(file)[str(file)])


def test_an_unknown_experiment_suggests_one():
    found = problems("digist")["experiment"]
    assert found.hint == "Did you mean 'digits'?"
    assert "heart-disease" in found.accepted


def test_a_new_part_keeps_only_what_fits():
    images = {"model": {"name": "cnn", "hidden": 64}, "partition": {"clients": 20, "alpha": 0.5}}
    config = configuration.load(images, ["partition.name=iid", "model.name=mlp"], {})
    assert config.partition.clients == 20  # both have it
    assert not hasattr(config.partition, "alpha")
    assert config.model.hidden == (64,)  # the CNN's hidden = 64 is no list of sizes
    order = configuration.load("digits", ["partition.clients=7", "partition.name=iid"], {})
    assert order.partition.clients == 7


def test_one_line_for_your_own_table(tmp_path):
    overrides = ["data.path=patients.csv", "data.target=outcome", "partition.by=hospital"]
    plain = configuration.to_dict(configuration.load("digits", overrides, {}))
    assert plain["data"]["name"] == "table"
    assert plain["name"] == "patients"
    named = configuration.load("digits", [*overrides, "name=mine"], {})
    assert named.name == "mine"
    assert plain["partition"] == {"name": "natural", "by": "hospital"}
    file = tmp_path / "mine.toml"
    file.write_text('[data]\npath = "patients.csv"\ntarget = "outcome"\n')
    assert configuration.load(file, (), {}).data.path == str(tmp_path / "patients.csv")


def test_a_table_without_a_target_is_refused():
    assert "data.target" in problems("digits", ["data.path=patients.csv"])


def test_a_model_of_the_users_own():
    config = configuration.load("digits", ["model.name=mine:build", "model.args={size=3}"], {})
    assert config.model == UserModel("mine:build", {"size": 3})
    assert configuration.from_dict(configuration.to_dict(config)) == config


def test_empty_unsets():
    config = configuration.load("shakespeare", ["rounds.cohort="], {})
    assert config.rounds.cohort is None


def test_legality_before_data():
    found = problems("digits", ["rounds.cohort=3", "rounds.min_results=4", "metrics=['acuracy']"])
    assert found["rounds.min_results"].accepted == "at most rounds.cohort = 3"
    assert found["metrics"].hint == "Did you mean 'accuracy'?"


def test_legality_with_data():
    from fedsim.data.digits import Digits

    meta = Digits().load(None).meta
    wrong = ["loss=mse", "metrics=['rmse']", "rounds.cohort=30", "rounds.min_results=25"]
    config = configuration.load("digits", [*wrong, "partition.name=natural"], {})
    with pytest.raises(ConfigError) as info:
        configuration.check_data(config, meta, 20)
    found = {problem.path: problem.accepted for problem in info.value.problems}
    assert found["loss"].startswith("cross_entropy for classification data")
    assert found["rounds.cohort"] == "at most 20, all clients"
    assert found["rounds.min_results"] == "at most 20, all clients"
    assert "accuracy" in found["metrics"]


@pytest.mark.parametrize(
    ("section", "name"),
    [(section, name) for section, (group, _) in PARTS.items() for name in names(group)],
)
def test_optional_fields_default_to_unset(section, name):
    """TOML has no null: what may be unset must be unset by default, or it could not be written."""
    import dataclasses

    kind = load(PARTS[section][0], name)
    annotations = fields_of(kind)
    for field in dataclasses.fields(kind):
        if field.init and accepted(annotations[field.name]).endswith("or unset"):
            assert field.default is None, field.name


def test_explain_finds_every_part_and_says_where_it_is_from():
    for section, (group, _) in PARTS.items():
        for name in names(group):
            (part,) = configuration.explain(f"{group}.{name}")
            assert part["summary"], (group, name)
            assert part["section"] == section
    assert {part["group"] for part in configuration.explain("sgd")} == {"clients", "optimizers"}
    assert "Reddi" in configuration.explain("fedadam")[0]["citation"]
    assert "single update" in configuration.explain("flower")[0]["legality"]["needs"]
    with pytest.raises(ConfigError, match="Did you mean 'fedadam'"):
        configuration.explain("fedadm")


@pytest.mark.parametrize("name", list(configuration.experiments()))
def test_the_json_schema_accepts_what_we_accept(name, schema):
    import jsonschema

    plain = configuration.to_dict(configuration.load(name, (), {}))
    schema.validate(plain)
    with pytest.raises(jsonschema.ValidationError):
        schema.validate({**plain, "rounds": {"count": 0}})
    with pytest.raises(jsonschema.ValidationError):
        schema.validate({**plain, "strategy": {"name": "fedavg", "beta1": 0.5}})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=200))
def test_garbage_is_a_configuration_error_and_nothing_else(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("garbage") / "x.toml"
    file.write_text(text, encoding="utf-8", errors="replace")
    with contextlib.suppress(ConfigError):
        assert isinstance(configuration.load(file, (), {}), RunConfig)


scalars = st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=8))
inner = st.dictionaries(st.sampled_from(["name", "lr", "count", "clients"]), scalars)
keys = st.sampled_from([*fields_of(RunConfig), "odd"])
tables = st.dictionaries(keys, st.one_of(scalars, inner))


@settings(max_examples=150, deadline=None)
@given(tables)
def test_any_mapping_loads_or_is_refused_with_paths(content):
    found = []
    try:
        configuration.load(content, (), {})
    except ConfigError as error:
        found = list(error.problems)
    assert all(problem.path and problem.accepted for problem in found)

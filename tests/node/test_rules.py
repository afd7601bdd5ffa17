"""What a policy says to experiments: every reason, and none where there is none."""

import json
from dataclasses import replace

import pytest

from fedsim import config as configuration
from fedsim import registry
from fedsim.errors import ConfigError
from fedsim.node.approval import RefusedError
from fedsim.node.experiment import experiment_text, read_experiment
from fedsim.node.policy import Anonymized, Policy
from fedsim.node.rules import PUBLIC, Facts, decide

STRICT = Policy(
    minimum_cohort=3,
    secure_aggregation=True,
    units=("example", "user"),
    maximum_epsilon=2.0,
    maximum_delta=1e-5,
    columns=("age", "sex", "ill"),
    maximum_rows=1000,
    maximum_rounds=20,
)
SETTINGS = {
    "data": {"name": "table", "path": "wards.csv", "target": "ill"},
    "partition": {"name": "natural", "by": "hospital"},
    "model": {"name": "linear"},
    "rounds": {"count": 2},
    "evaluation": {"central_every": 0, "federated_every": 0},
}
DECLARED = {
    "clients": ["aarau", "basel", "chur"],
    "most_rows": 40,
    "task": "binary",
    "classes": ["no", "yes"],
    "columns": {"age": {"mean": 50, "std": 20}, "sex": {"values": ["f", "m"]}},
}
SCHEMA = {
    "age": {
        "role": "quasi",
        "hierarchy": {"name": "intervals", "min": 0, "max": 99, "widths": [9]},
    },
    "sex": {"role": "insensitive", "hierarchy": {"name": "categories", "values": ["f", "m"]}},
    "ill": {"role": "sensitive"},
}
FACTS = Facts(has_own_data=True, client=1, clients=3)


def config(**sections):
    made = {
        key: dict(value) if isinstance(value, dict) else value for key, value in SETTINGS.items()
    }
    made["data"]["declared"] = DECLARED
    made["secure_sum"] = {"name": "secagg"}
    made["privacy"] = {
        "unit": "example", "noise_multiplier": 1.0, "epsilon": 2.0, "delta": 1e-5,
    }  # fmt: skip
    if sections.get("privacy", {}).get("unit") == "none":
        del made["privacy"]
    for name, values in sections.items():
        made[name] = {**made.get(name, {}), **values} if isinstance(values, dict) else values
    return configuration.load(made, environ={})


def test_what_is_allowed_has_no_reason_against_it():
    assert decide(STRICT, config(), FACTS) == []


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"secure_sum": {"name": "plain"}}, "secure_sum.name = 'plain': secure_aggregation"),
        ({"secure_sum": {"name": "ideal"}}, "secure_sum.name = 'ideal': secure_aggregation"),
        ({"secure_sum": {"name": "ckks", "adversaries": 0.0}}, "secure_sum.name = 'ckks'"),
        ({"secure_sum": {"min_cohort": 2}}, "secure_sum.min_cohort = 2: minimum_cohort is 3"),
        ({"rounds": {"cohort": 2}}, "rounds.cohort = 2: minimum_cohort = 3"),
        ({"rounds": {"count": 21}}, "rounds.count = 21: maximum_rounds = 20"),
        ({"privacy": {"unit": "none"}}, "privacy.unit = 'none': units = example, user"),
        ({"privacy": {"unit": "local"}}, "privacy.unit = 'local': units = example, user"),
        ({"privacy": {"epsilon": 2.1}}, "privacy.epsilon = 2.1: maximum_epsilon = 2"),
        ({"privacy": {"delta": 1e-4}}, "privacy.delta = 0.0001: maximum_delta = 1e-05"),
        ({"privacy": {"noise": "seeded"}}, "privacy.noise = 'seeded'"),
        ({"mode": "pooled", "secure_sum": {"name": "plain"}}, "mode = 'pooled'"),
        ({"model": {"name": "wards:make"}}, "model.name = 'wards:make' is code of a user"),
        ({"data": {"declared": {}}}, "data.declared: it is empty"),
        ({"data": {"name": "digits"}}, "data.name = 'digits': public_data = false"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_thing_that_is_against_the_policy_is_a_reason(sections, reason):
    if "data" in sections and "name" in sections["data"]:
        experiment = replace(config(), data=configuration.load("digits", environ={}).data)
    else:
        try:
            experiment = config(**sections)
        except ConfigError:  # legal nowhere: as if somebody had signed it all the same
            experiment = replace(config(), mode="pooled")
    reasons = decide(STRICT, experiment, FACTS)
    assert any(found.startswith(reason) for found in reasons), reasons


def test_all_reasons_are_said_at_once():
    wrong = config(privacy={"unit": "local", "epsilon": 5.0}, rounds={"count": 99, "cohort": 2})
    assert len(decide(STRICT, wrong, FACTS)) == 4


def test_columns_that_are_not_listed_are_named():
    declared = {**DECLARED, "columns": {**DECLARED["columns"], "hiv": {"values": ["0", "1"]}}}
    (reason,) = decide(STRICT, config(data={"declared": declared}), FACTS)
    assert reason == "data: columns hiv are asked for; columns has not got them"
    assert decide(replace(STRICT, columns=("*",)), config(data={"declared": declared}), FACTS) == []
    (reason,) = decide(replace(STRICT, columns=("age", "sex")), config(), FACTS)
    assert "columns ill are asked for" in reason


def test_a_node_knows_how_many_clients_there_are_and_which_it_is():
    for facts in (replace(FACTS, clients=4), replace(FACTS, client=3, clients=None)):
        (reason,) = decide(STRICT, config(), facts)
        assert reason.startswith("data.declared.clients: ")


def test_without_rows_of_its_own_only_public_data_and_only_if_allowed():
    (reason,) = decide(STRICT, config(), replace(FACTS, has_own_data=False))
    assert "node.toml of this node names no file" in reason
    public = replace(config(), data=configuration.load("digits", environ={}).data)
    assert (
        decide(replace(STRICT, public_data=True), public, replace(FACTS, has_own_data=False)) == []
    )


def test_a_path_that_an_experiment_names_is_never_public():
    assert set(PUBLIC) <= set(registry.names("data"))
    assert not {"table", "huggingface"} & set(PUBLIC)


def test_code_of_users_runs_where_the_owner_lists_it():
    experiment = config(model={"name": "wards:make"})
    assert decide(replace(STRICT, user_code=("wards:make",)), experiment, FACTS) == []


def test_adaptive_clipping_is_the_servers_word():
    experiment = config(privacy={"unit": "user", "clipping": "adaptive", "bit_noise": 2.0})
    (reason,) = decide(STRICT, experiment, FACTS)
    assert "the server would say what updates are clipped to" in reason


def test_kinds_of_messages():
    for kind, words in (
        ("evaluate", "no metrics"),
        ("train", "under masks only"),
        ("query.cut_frozen", "no cut that clients agree on"),
    ):
        (reason,) = decide(STRICT, config(), replace(FACTS, kind=kind))
        assert words in reason
    assert decide(STRICT, config(), replace(FACTS, kind="train.sa_masked")) == []


def anonymized(**changes):
    settings = {"name": "nodes", "columns": SCHEMA, "k": 5, "compare_raw": False, **changes}
    return config(anonymization=settings, privacy={"unit": "none"})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"k": 4}, "anonymization.k = 4: k = 5"),
        ({"name": "raw"}, "anonymization.name = 'raw'"),
        ({"diversity": "none"}, "anonymization.diversity = 'none'"),
        ({"l": 1.5}, "anonymization.diversity = 'distinct', l = 1.5: l = 2"),
        ({"t": 0.5}, "anonymization.t = 0.5: t = 0.4"),
        ({"t": None}, "anonymization.t = None: t = 0.4"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_least_anonymization(changes, reason):
    least = Anonymized(k=5, quasi=("age",), l=2, t=0.4)
    policy = replace(STRICT, units=("none",), anonymization=least)
    good = {"diversity": "distinct", "l": 2.0, "t": 0.4}
    assert decide(policy, anonymized(**good), FACTS) == []
    given = {k: v for k, v in {**good, **changes}.items() if v is not None}
    assert any(found.startswith(reason) for found in decide(policy, anonymized(**given), FACTS))


def test_a_schema_cannot_call_a_quasi_identifier_harmless():
    policy = replace(STRICT, units=("none",), anonymization=Anonymized(k=2, quasi=("age", "sex")))
    (reason,) = decide(policy, anonymized(), FACTS)
    assert reason == "anonymization.columns.sex.role = 'insensitive': quasi has it"
    (reason,) = decide(policy, config(privacy={"unit": "none"}), FACTS)
    assert "no raw records" in reason


def test_an_experiment_survives_being_signed_and_read():
    for experiment in (config(), anonymized()):
        assert read_experiment(experiment_text(experiment)) == experiment
        assert read_experiment(configuration.dump_toml(experiment)) == experiment


@pytest.mark.parametrize("text", ["{", "x", "[1]", "{}x", "[data", "a = 1\na = 2"])
def test_a_text_that_is_no_experiment_is_refused(text):
    with pytest.raises((RefusedError, ConfigError)):
        read_experiment(text)


def test_no_file_is_opened_for_an_experiment(tmp_path):
    content = {"data": {"name": "table", "path": "x.csv", "declared": str(tmp_path / "s.json")}}
    (tmp_path / "s.json").write_text("{}")
    with pytest.raises(ConfigError, match="declared"):
        read_experiment(json.dumps(content))

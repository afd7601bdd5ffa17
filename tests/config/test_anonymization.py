"""`[anonymization]`: schemas become part of the experiment, and what cannot be is refused."""

import json
import tomllib
from pathlib import Path

import pytest

from fedsim import config as configuration
from fedsim.anonymize import schemas
from fedsim.anonymize.schema import read_schema
from fedsim.config._anonymization import schema_of
from fedsim.config.schema import RunConfig
from fedsim.errors import ConfigError

ON = {"name": "nodes", "schema": "heart-disease"}


def loaded(*overrides: str, data: str = "heart-disease", **settings: object) -> RunConfig:
    given = {key: value for key, value in {**ON, **settings}.items() if value is not None}
    content = {"data": {"name": data}, "anonymization": given}
    return configuration.load(content, overrides, {})


def refusals(*overrides: str, data: str = "heart-disease", **settings: object) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        loaded(*overrides, data=data, **settings)
    return {
        problem.path: f"{problem.accepted}. {problem.hint}" for problem in caught.value.problems
    }


@pytest.mark.parametrize("name", schemas.names())
def test_a_builtin_schema_is_kept_in_the_experiment(name: str) -> None:
    config = loaded(data=name, schema=name.replace("-", "_"))
    assert config.anonymization.schema is None
    assert schema_of(config.anonymization) == read_schema(schemas.path_of(name))


def test_the_saved_experiment_needs_no_schema_file(tmp_path: Path) -> None:
    (tmp_path / "sexes.csv").write_text("0;*\n1;*\n")
    text = schemas.path_of("heart-disease").read_text()
    text = text.replace(
        'name = "categories", values = ["0", "1"]', 'name = "taxonomy", file = "sexes.csv"', 1
    )
    (tmp_path / "own.toml").write_text('empty = ["?"]\nsubject = "age"\n' + text)
    experiment = tmp_path / "sub" / "x.toml"
    experiment.parent.mkdir()
    experiment.write_text(
        'data.name = "heart-disease"\n[anonymization]\nname = "sets"\nschema = "../own.toml"\n'
    )
    config = configuration.load(experiment, (), {})
    own = schema_of(config.anonymization)
    assert own.empty == ("?",)
    assert own.subject == "age"
    assert own.columns["sex"].hierarchy.paths == (("0", "*"), ("1", "*"))
    for file in ("sexes.csv", "own.toml"):
        (tmp_path / file).unlink()
    written = json.loads(json.dumps(configuration.to_dict(config), allow_nan=False))
    assert configuration.from_dict(written) == config
    assert configuration.from_dict(tomllib.loads(configuration.dump_toml(config))) == config
    assert schema_of(configuration.from_dict(written).anonymization) == own


def test_a_schema_is_looked_for_beside_who_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(schemas.path_of("heart-disease").read_text())
    config = configuration.load(
        "heart-disease", ["anonymization.name=nodes", "anonymization.schema=own.toml"], {}
    )
    assert "cp" in config.anonymization.columns


def test_off_changes_nothing() -> None:
    plain = configuration.load("heart-disease", (), {})
    assert plain.anonymization.name == "none"
    loaded("anonymization.name=none", data="digits")


@pytest.mark.parametrize(
    ("settings", "path", "words"),
    [
        ({"schema": "adul"}, "schema", "Did you mean 'adult'"),
        ({"schema": "no.toml"}, "schema", "one of the built-in schemas: adult, heart-disease"),
        ({"schema": None}, "schema", "a schema file, or a built-in one"),
        ({"schema": "x" * 5000}, "schema", "a TOML file"),
        ({"schema": "a\0b"}, "schema", "a TOML file"),
        ({"schema": 3}, "schema", "text"),
        ({"columns": {"age": {"role": "quasi"}}}, "schema", "unset beside anonymization.columns"),
        ({"schema": "adult"}, "columns.disease", "'disease' is what there is to learn"),
        ({"k": 1}, "k", ">= 2"),
        ({"name": "mondrian"}, "name", "one of none, raw, nodes, sets, full-domain"),
        ({"t": 0.0}, "t", "> 0"),
        ({"max_suppression": 1.0}, "max_suppression", "< 1"),
        ({"cut": "shared"}, "cut", "'local' with secure_sum.name = 'plain'"),
        ({"columns": 7}, "columns", "a table"),
    ],
)
def test_what_is_refused(settings: dict[str, object], path: str, words: str) -> None:
    found = refusals(**settings)
    assert words in found[f"anonymization.{path}"]


def test_data_that_are_no_table_are_refused() -> None:
    found = refusals(data="digits")
    assert all(
        name in found["data.name"] for name in ("adult", "heart-disease", "parquet", "table")
    )


@pytest.mark.parametrize("role", ["quasi", "direct"])
def test_a_target_that_would_be_hidden_is_refused(role: str) -> None:
    columns = {"disease": {"role": role, "hierarchy": {"name": "categories", "values": ["a"]}}}
    if role == "direct":
        del columns["disease"]["hierarchy"]
    columns["age"] = {"role": "quasi", "hierarchy": {"name": "categories", "values": ["a"]}}
    found = refusals(schema=None, columns=columns)
    assert "what there is to learn" in found["anonymization.columns.disease.role"]


def test_every_problem_of_a_schema_is_found() -> None:
    columns = {"age": {"role": "quasi"}, "disease": {"role": "sensitiv"}}
    found = refusals(schema=None, columns=columns)
    assert "a quasi-identifier needs it" in found["anonymization.columns.age.hierarchy"]
    assert "sensitive" in found["anonymization.columns.disease.role"]


def test_a_draft_is_refused(tmp_path: Path) -> None:
    text = schemas.path_of("heart-disease").read_text().replace("confirmed = true", "")
    (tmp_path / "draft.toml").write_text("confirmed = false\n" + text)
    found = refusals(schema=str(tmp_path / "draft.toml"))
    assert "a draft" in found["anonymization.schema"]


def test_a_schema_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[columns\n")
    assert "a TOML file" in refusals(schema=str(tmp_path / "bad.toml"))["anonymization.schema"]


def test_a_raw_twin_of_a_private_run_is_refused() -> None:
    private = ["privacy.unit=user", "privacy.epsilon=3", "rounds.cohort=3"]
    assert "would spend budget" in refusals(*private)["anonymization.compare_raw"]
    loaded(*private, "anonymization.compare_raw=false")
    loaded(*private, "anonymization.name=raw")


def test_models_of_values_need_sensitive_columns() -> None:
    columns = {"disease": {"role": "insensitive"}}
    columns["age"] = {"role": "quasi", "hierarchy": {"name": "categories", "values": ["a"]}}
    found = refusals(schema=None, columns=columns, diversity="distinct")
    assert "at least one column with role sensitive" in found["anonymization.columns"]
    loaded(schema=None, columns=columns)


def test_a_shared_cut_needs_a_secure_sum() -> None:
    sums = ["secure_sum.name=ideal", "evaluation.federated_every=0"]
    loaded(*sums, cut="shared")
    loaded(*sums, cut="merged", name="sets")
    assert "anonymization.cut" in refusals("secure_sum.name=ckks", *sums[1:], cut="shared")
    assert "anonymization.cut" in refusals(*sums, cut="shared", name="full-domain")
    found = refusals(*sums, cut="shared", max_suppression=0.1, t=0.3)
    assert {"anonymization.max_suppression", "anonymization.t_reference"} <= found.keys()


def test_an_epsilon_that_would_not_hold_is_refused() -> None:
    """One record, or one client, must not decide what the others' records become."""
    given = ["privacy.epsilon=3", "anonymization.compare_raw=false"]
    assert "noise for one example" in refusals("privacy.unit=example", *given)["privacy.unit"]
    found = refusals("privacy.unit=user", *given, t_reference="federation")
    assert "else a client decides" in found["anonymization.t_reference"]
    sums = ["secure_sum.name=ideal", "evaluation.federated_every=0"]
    found = refusals("privacy.unit=user", *given, *sums, cut="shared")
    assert "else a client decides" in found["anonymization.cut"]
    loaded("privacy.unit=local", *given)
    loaded("privacy.unit=example", *given, "anonymization.name=raw")


def test_a_target_is_learned_as_it_is() -> None:
    treated = {"disease": {"role": "insensitive", "treatment": "remove"}}
    treated["age"] = {"role": "quasi", "hierarchy": {"name": "categories", "values": ["a"]}}
    found = refusals(schema=None, columns=treated)
    assert "labels as they are" in found["anonymization.columns.disease.treatment"]


def test_noise_with_an_epsilon_has_no_ledger_here() -> None:
    noise = {"name": "noise", "low": 0.0, "high": 1.0, "epsilon": 1.0}
    columns = {
        "disease": {"role": "sensitive"},
        "chol": {"role": "insensitive", "treatment": noise},
    }
    columns["age"] = {"role": "quasi", "hierarchy": {"name": "categories", "values": ["a"]}}
    found = refusals(schema=None, columns=columns)
    assert "ledger" in found["anonymization.columns.chol.treatment.epsilon"]

"""Schemas: read, refused with every problem at once, written and read again."""

import copy

import pytest

from fedsim.anonymize.schema import read_schema, schema_from_dict
from fedsim.errors import ConfigError, MissingDataError

PLAIN = {
    "columns": {
        "name": {"role": "direct"},
        "age": {
            "role": "quasi",
            "missing": "own",
            "hierarchy": {"name": "intervals", "min": 0, "max": 99, "widths": [10, 20]},
        },
        "town": {"role": "quasi", "hierarchy": {"name": "prefix", "length": 3}},
        "illness": {"role": "sensitive"},
        "ward": {"role": "insensitive"},
    },
}


def changed(column, **fields):
    plain = copy.deepcopy(PLAIN)
    plain["columns"].setdefault(column, {}).update(fields)
    return plain


def test_a_schema_survives_being_written_and_read():
    schema = schema_from_dict(PLAIN)
    assert schema.having("quasi") == ("age", "town")
    assert schema.columns["age"].tree().leaves == 101
    again = schema_from_dict(schema.to_dict())
    assert again.fingerprint() == schema.fingerprint()
    assert again == schema


@pytest.mark.parametrize(
    ("plain", "path", "words"),
    [
        (changed("ward", role="quas"), "columns.ward.role", "one of direct, quasi"),
        (changed("zip"), "columns.zip.role", "no default"),
        (changed("ward", role="quasi"), "columns.ward.hierarchy", "intervals"),
        (changed("ward", rol="quasi"), "columns.ward.rol", "no such key"),
        (changed("name", hierarchy="prefix"), "columns.name.hierarchy.length", "no default"),
        (
            changed("name", hierarchy={"name": "prefix", "length": 2}),
            "columns.name.hierarchy",
            "a direct identifier is treated",
        ),
        (changed("ward", hierarchy={"name": "prefx"}), "columns.ward.hierarchy.name", "prefix"),
        (changed("ward", hierarchy=7), "columns.ward.hierarchy", "a table with a name"),
        (changed("ward", missing="own"), "columns.ward.missing", "with a hierarchy"),
        (changed("ward", distance="ordered"), "columns.ward.distance", "for sensitive columns"),
        (changed("illness", distance="hierarchical"), "columns.illness.distance", "hierarchy"),
        (
            changed("age", hierarchy={"name": "intervals", "min": 0, "max": 9, "widths": [4, 6]}),
            "columns.age.hierarchy.widths",
            "a multiple of 4",
        ),
        (PLAIN | {"subject": "nme"}, "subject", "name, age"),
        (PLAIN | {"column": {}}, "column", "no such key"),
        ({"columns": {}}, "columns", "[columns.NAME]"),
        ({"columns": {"a": 3}}, "columns.a", 'role = "quasi"'),
    ],
)
def test_what_contradicts_is_refused_by_its_path(plain, path, words):
    with pytest.raises(ConfigError) as caught:
        schema_from_dict(plain)
    assert [problem.path for problem in caught.value.problems] == [path]
    assert words in str(caught.value)


def test_all_problems_are_named_at_once():
    plain = changed("ward", role="quasi")
    plain["columns"]["illness"]["missing"] = "no"
    plain["subject"] = "nobody"
    with pytest.raises(ConfigError) as caught:
        schema_from_dict(plain)
    paths = [problem.path for problem in caught.value.problems]
    assert paths == ["columns.illness.missing", "columns.ward.hierarchy", "subject"]


def test_files_are_read_from_the_folder_of_the_schema(tmp_path):
    (tmp_path / "towns.csv").write_text("Ulm;South;*\nKiel;North;*\n")
    text = '[columns.town]\nrole = "quasi"\nhierarchy = { name = "taxonomy", file = "towns.csv" }\n'
    (tmp_path / "schema.toml").write_text(text)
    schema = read_schema(tmp_path / "schema.toml")
    (tmp_path / "towns.csv").unlink()
    again = schema_from_dict(schema.to_dict())
    assert again.columns["town"].tree().labels[1] == ("South", "North")
    assert again.fingerprint() == schema.fingerprint()
    with pytest.raises(MissingDataError, match=r"towns\.csv"):
        read_schema(tmp_path / "schema.toml")
    with pytest.raises(MissingDataError, match="cannot read the schema"):
        read_schema(tmp_path / "other.toml")
    (tmp_path / "broken.toml").write_text("[columns")
    with pytest.raises(ConfigError, match="a TOML file"):
        read_schema(tmp_path / "broken.toml")

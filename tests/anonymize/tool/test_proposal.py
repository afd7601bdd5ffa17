import tomllib

import numpy as np
import pandas as pd
import pytest

from fedsim.anonymize.files import open_table
from fedsim.anonymize.headers import kind_of
from fedsim.anonymize.proposal import profiles, propose, to_toml
from fedsim.anonymize.schema import schema_from_dict
from fedsim.anonymize.table import encode

RNG = np.random.default_rng(5)
N = 60


def proposed(tmp_path, frame):
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False)
    table = open_table(path)
    guesses, empty = propose(profiles(table))
    return {guess.name: guess for guess in guesses}, to_toml(table, guesses, empty)


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("First Name", "name"), ("lastName", "name"), ("Nachname", "name"), ("prénom", "name"),
        ("Apellidos", "name"), ("cognome", "name"), ("voornaam", "name"),
        ("E-Mail", "email"), ("Telefonnummer", None), ("telefon", "phone"),
        ("phone_number", "phone"),
        ("PLZ", "zip"), ("code_postal", "zip"), ("ZipCode", "zip"), ("CAP", "zip"),
        ("Straße", "street"), ("Geburtsdatum", "birth"), ("date of birth", "birth"),
        ("DOB", "birth"), ("fecha_nacimiento", "birth"), ("Alter", "age"), ("âge", "age"),
        ("Geschlecht", "sex"), ("sexo", "sex"), ("native-country", "race"),
        ("marital-status", "family"), ("patient_id", "record"), ("MRN", "record"),
        ("SSN", "national id"),
        ("Diagnose", "sensitive"), ("salary-class", "sensitive"), ("ICD10", "sensitive"),
        ("admission_date", "date"), ("Aufnahmedatum", None), ("chol", None), ("x1", None),
        ("", None), ("年齢", None),
    ],
)  # fmt: skip
def test_headers_of_several_languages(header, kind):
    found = kind_of(header)
    assert (found.name if found else None) == kind


@pytest.mark.parametrize(
    ("name", "cells", "role", "reason"),
    [
        ("full name", [f"Ann {i}" for i in range(N)], "direct", "a name"),
        ("contact", [f"p{i}@example.org" for i in range(N)], "direct", "e-mail addresses"),
        ("c1", ["212-555-0143", "(646) 555-0199"] * 30, "direct", "telephone numbers"),
        ("code", [f"K{i}x{i * 7}" for i in range(N)], "direct", "nearly every cell"),
        ("number", list(range(1000, 1000 + N)), "direct", "nearly every cell"),
        ("measured", RNG.normal(size=N).round(4), "quasi", "DOMAIN FROM THE DATA"),
        ("Alter", RNG.integers(20, 90, N), "quasi", "no age is over 120"),
        ("zip", RNG.choice(["12345", "54321"], N), "quasi", "every code of that length"),
        ("visit", RNG.choice(["2021-03-04", "2022-01-01"], N), "quasi", "whole decades"),
        ("smoker", RNG.choice(["yes", "no"], N), "quasi", "nothing says what it is"),
        ("diagnosis", RNG.choice(["flu", "cold"], N), "sensitive", "keep to themselves"),
        ("remarks", ["The patient was seen today and has no complaints at all."] * N,
         "insensitive", "long texts"),
        ("nothing", [None] * N, "direct", "every cell is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_roles_and_reasons(tmp_path, name, cells, role, reason):
    guesses, _ = proposed(tmp_path, pd.DataFrame({name: cells, "other": ["a", "b"] * (N // 2)}))
    assert guesses[name].role == role
    assert reason in "; ".join(guesses[name].why)


def test_the_draft_is_a_schema_that_fits_its_table_and_is_not_confirmed(tmp_path):
    frame = pd.DataFrame(
        {
            "Name": [f"Ann {i}" for i in range(N)],
            "age": RNG.integers(0, 99, N),
            "weight": RNG.normal(70, 10, N).round(1),
            "Größe": RNG.integers(150, 200, N),
            'odd "name" = [x]': RNG.choice(["a", "?"], N),
            "born": RNG.choice(["1961-02-03", "1999-12-31"], N),
            "zip": RNG.choice(["12345", "04321"], N),
            "diagnosis": RNG.choice(["flu", "cold"], N),
        }
    )
    _, text = proposed(tmp_path, frame)
    content = tomllib.loads(text)
    assert content["confirmed"] is False
    assert content["empty"] == ["?"]
    assert list(content["columns"]) == list(frame.columns)
    schema = schema_from_dict(content)
    assert not schema.is_confirmed
    encoded = encode(frame.replace("?", None), schema)  # every cell is in the domains proposed
    assert encoded.rows == N
    assert text.startswith("# A draft")
    assert text.count("DOMAIN FROM THE DATA") == 3


@pytest.mark.parametrize("scale", [1e-6, 0.01, 1.0, 37.0, 1e6])
def test_intervals_hold_all_numbers_they_were_made_from(tmp_path, scale):
    numbers = RNG.normal(size=200) * scale
    frame = pd.DataFrame({"x": numbers, "sex": ["f", "m"] * 100})
    _, text = proposed(tmp_path, frame)
    schema = schema_from_dict(tomllib.loads(text))
    tree = schema.columns["x"].tree()
    assert encode(frame, schema).rows == 200
    assert tree.height >= 3
    assert 20 <= tree.leaves <= 1_000

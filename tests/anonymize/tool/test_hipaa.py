import pytest

from fedsim.anonymize.hipaa import checklist
from fedsim.anonymize.schema import schema_from_dict

AGES = {"name": "intervals", "min": 0, "max": 90, "outside": "nearest"}
ALL_AGES = {"name": "intervals", "min": 0, "max": 120}
DAYS = {"name": "dates", "min": "1900-01-01", "max": "2029-12-31"}
YEARS = {**DAYS, "leaf": "year", "levels": ["decade"]}
DIGITS = {"name": "prefix", "length": 5}


def entries(**columns):
    return {e.letter: e for e in checklist(schema_from_dict({"columns": columns}))}


def test_there_are_eighteen_from_a_to_r():
    assert "".join(entries(x={"role": "sensitive"})) == "ABCDEFGHIJKLMNOPQR"


@pytest.mark.parametrize(
    ("letter", "name", "column", "status"),
    [
        ("A", "name", {"role": "direct"}, "covered"),
        ("A", "name", {"role": "insensitive"}, "open"),
        ("B", "zip", {"role": "quasi", "hierarchy": DIGITS}, "open"),
        ("B", "zip", {"role": "insensitive", "treatment": "zip3"}, "covered"),
        ("B", "city", {"role": "direct"}, "covered"),
        ("B", "city", {"role": "insensitive"}, "open"),
        ("B", "state", {"role": "insensitive"}, "no column"),
        ("C", "age", {"role": "quasi", "hierarchy": AGES}, "covered"),
        ("C", "age", {"role": "quasi", "hierarchy": ALL_AGES}, "open"),
        ("C", "date of birth", {"role": "quasi", "hierarchy": DAYS}, "open"),
        ("C", "date of birth", {"role": "quasi", "hierarchy": YEARS}, "covered"),
        ("C", "visit date", {"role": "insensitive", "treatment": "date-shift"}, "open"),
        ("F", "email", {"role": "direct"}, "covered"),
        ("F", "note", {"role": "insensitive"}, "no column"),
        ("H", "mrn", {"role": "direct"}, "covered"),
        ("P", "note", {"role": "insensitive"}, "not looked for"),
        ("R", "study code", {"role": "direct"}, "covered"),
        ("R", "mrn", {"role": "direct", "treatment": "pseudonym"}, "open"),
    ],
)
def test_what_a_schema_does_with_an_identifier(letter, name, column, status):
    found = entries(**{name: column})[letter]
    assert found.status == status
    assert bool(found.why) == (status == "open")

"""Replacements: tags, keyed tags, and surrogates that are nobody's."""

import ipaddress
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize.pseudonym_keys import PseudonymKeys
from fedsim.anonymize.text.cards import is_card
from fedsim.anonymize.text.checksums import luhn
from fedsim.anonymize.text.detect import KINDS, find
from fedsim.anonymize.text.iban import is_iban
from fedsim.anonymize.text.national_ids import is_valid
from fedsim.anonymize.text.profiles import SAFE_HARBOR, kinds_of, not_looked_for
from fedsim.anonymize.text.redact import keyed_tags, redact, tag
from fedsim.anonymize.text.surrogates import shifted, surrogates
from fedsim.anonymize.treatments._context import ColumnContext
from fedsim.anonymize.treatments.redact import Redact
from fedsim.errors import ConfigError

KEY, OTHER = b"k" * 32, b"o" * 32
KEYS = PseudonymKeys(
    bytes.fromhex("8f3a91c4d27be05566f0a1983c4d7e12b90acd34ef7715628897aabb01cdfe45")
)
SEEDS = st.binary(min_size=32, max_size=32)


def test_tags_stand_where_the_spans_were():
    text = "😀 ann@example.org, call +49 30 901820."
    assert redact(text, find(text), tag) == "😀 [EMAIL], call [PHONE]."


def test_keyed_tags_are_equal_for_equal_values_under_one_key_only():
    one, other = keyed_tags(KEY), keyed_tags(OTHER)
    assert one("+49 30 901820", "phone") == one("+4930/901820", "phone")
    assert one("Ann", "person") == one("ANN", "person") != other("Ann", "person")
    assert one("Ann", "person")[8:] != one("Ann", "place")[7:]
    assert re.fullmatch(r"\[PERSON-[0-9a-f]{12}\]", one("Ann", "person"))


def test_keyed_tags_of_many_values_differ():
    make = keyed_tags(KEY)
    assert len({make(f"person {i}", "person") for i in range(20_000)}) == 20_000


def test_kind_and_value_are_kept_apart():
    make = keyed_tags(KEY)
    assert make("bc", "a").split("-")[-1] != make("c", "ab").split("-")[-1]


@given(SEEDS, st.integers(0, 10**9))
def test_surrogates_are_of_reserved_ranges(key, number):
    make = surrogates(key)
    value = str(number)
    assert make(value, "email").endswith("@example.org")
    assert "www.example.com/" in make(f"http://{value}", "url")
    nets = [ipaddress.ip_network(n) for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]
    assert any(ipaddress.ip_address(make(value, "ip")) in net for net in nets)
    six = ipaddress.ip_address(make(f"::{number % 10000}", "ip"))
    assert six in ipaddress.ip_network("2001:db8::/32")
    assert re.fullmatch(r"[2-9]\d\d-555-01\d\d", make(value, "phone"))
    assert re.fullmatch(r"07700 900\d{3}", make("07911 123456", "phone"))
    ssn = make(value, "us-ssn")
    assert ssn.startswith("000-")
    assert not is_valid("us-ssn", ssn)
    card = make("4111111111111111", "card")
    assert len(card) == 16
    assert card.startswith("0000")
    assert not luhn(card)
    assert not is_card(card)
    iban = make("GB82WEST12345698765432", "iban")
    assert len(iban) == 22
    assert iban.startswith("ZZ00")
    assert not is_iban(iban)


def test_surrogates_are_the_same_for_the_same_value_and_key():
    assert surrogates(KEY)("Ann Lee", "person") == surrogates(KEY)("ANN LEE".title(), "person")
    names = {surrogates(KEY)(f"Person {i}", "person") for i in range(500)}
    assert len(names) > 400
    assert surrogates(KEY)("QWERTY", "person").isupper()
    assert surrogates(KEY)("103", "age-over-89") == "90+"
    assert surrogates(KEY)("X1", "medical-record") == keyed_tags(KEY)("X1", "medical-record")


DATES = st.dates(
    min_value=pd.Timestamp("1902-01-01").date(), max_value=pd.Timestamp("2090-01-01").date()
)


@given(DATES, st.integers(-365, 365).filter(bool))
def test_dates_move_in_their_own_form(date, days):
    moved = date + pd.Timedelta(days=days).to_pytimedelta()
    forms = ("%Y-%m-%d", "%m/%d/%Y", "%Y-%m-%d 12:30:00", "%d. %B %Y", "%B %d, %Y")
    for form in forms:
        expected = re.sub(r"(?<!\d)0(\d)(?= |,|\.)", r"\1", moved.strftime(form))
        found = shifted(date.strftime(form), days)
        assert expected == re.sub(r"(?<!\d)0(\d)(?= |,|\.)", r"\1", found)


def test_other_languages_and_unclear_dates():
    assert shifted("3. Mai 1999", 1) == "4. May 1999"
    assert shifted("31/12/2020", 1) == "01/01/2021"
    assert shifted("May 1999", 1) == ""
    assert surrogates(KEY)("May 1999", "date").startswith("[DATE-")


def test_intervals_of_a_subject_stay():
    one, two = surrogates(KEY, b"subject one"), surrogates(KEY, b"subject two")
    first, second = (pd.Timestamp(one(d, "date")) for d in ("2020-01-01", "2020-03-01"))
    assert (second - first).days == 60
    assert first != pd.Timestamp("2020-01-01")
    assert one("2020-01-01", "date") != two("2020-01-01", "date")


def test_safe_harbor_has_eighteen_identifiers_and_says_what_it_does_not_look_for():
    assert [entry.letter for entry in SAFE_HARBOR] == list("ABCDEFGHIJKLMNOPQR")
    assert kinds_of("hipaa-safe-harbor") <= set(KINDS)
    assert "age" not in kinds_of("hipaa-safe-harbor")
    missing = not_looked_for()
    assert len(missing) == 2
    assert "biometric" in missing[0]
    assert "photograph" in missing[1]
    assert all("not looked for" in line for line in missing)


TEXTS = pd.Series(
    ["Zorblax Quux, born 1980-02-29, MRN 12345", None, "Quux was 45 years old", 17, ""],
    index=[3, 1, 4, 15, 9],
    name="note",
    dtype=object,
)
NAMES = pd.Series(["Quux, Zorblax", "A B", "Somebody Else", None, "C"], index=TEXTS.index)


def test_the_treatment_keeps_index_length_and_missing_cells():
    found = Redact().apply(TEXTS, ColumnContext("note", row_values={"name": NAMES}))
    assert list(found.index) == [3, 1, 4, 15, 9]
    assert found.name == "note"
    assert found[3] == "[NAME], born [DATE], MRN [MEDICAL-RECORD]"
    assert pd.isna(found[1])
    assert found[4] == "Quux was [AGE] years old"  # another row's name
    assert found[15] == "17"
    assert found[9] == ""


def test_the_treatment_does_not_change_its_input():
    before = TEXTS.copy()
    Redact().apply(TEXTS, ColumnContext("note", row_values={"name": NAMES}))
    pd.testing.assert_series_equal(TEXTS, before)


def test_pieces_give_what_the_whole_gives():
    treatment = Redact(style="surrogate")
    ctx = ColumnContext("note", KEYS, row_values={"name": NAMES})
    whole = treatment.apply(TEXTS, ctx)
    pieces = [
        treatment.apply(
            TEXTS.iloc[i : i + 2],
            ColumnContext("note", KEYS, row_values={"name": NAMES.iloc[i : i + 2]}),
        )
        for i in range(0, 5, 2)
    ]
    pd.testing.assert_series_equal(pd.concat(pieces), whole)


def test_a_profile_leaves_what_is_not_of_it():
    ctx = ColumnContext("note")
    found = Redact(profile="hipaa-safe-harbor").apply(TEXTS, ctx)
    assert found[4] == "Quux was 45 years old"
    assert (
        Redact(kinds=("medical-record",)).apply(TEXTS, ctx)[3].startswith("Zorblax Quux, born 19")
    )


@pytest.mark.parametrize("style", ["keyed-tag", "surrogate"])
def test_keyed_styles_need_a_key(style):
    with pytest.raises(ConfigError, match="secret key"):
        Redact(style=style).apply(TEXTS, ColumnContext("note"))


def test_equal_on_two_clients_and_different_by_column():
    one = Redact(style="keyed-tag").apply(TEXTS, ColumnContext("note", KEYS))
    two = Redact(style="keyed-tag").apply(TEXTS, ColumnContext("note", KEYS))
    other = Redact(style="keyed-tag").apply(TEXTS, ColumnContext("letter", KEYS))
    pd.testing.assert_series_equal(one, two)
    assert one[3] != other[3]
    shared = Redact(style="keyed-tag", domain="note").apply(TEXTS, ColumnContext("letter", KEYS))
    assert shared[3] == one[3]


def test_dates_move_by_subject():
    notes = pd.Series(["2020-01-01", "2020-03-01", "2020-01-01"])
    subject = pd.Series(["a", "a", "b"])
    ctx = ColumnContext("note", KEYS, subject=subject)
    found = pd.to_datetime(Redact(style="surrogate").apply(notes, ctx))
    assert (found[1] - found[0]).days == 60
    assert found[0] != found[2]


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match=r"treatment.kinds.*emial"):
        Redact(kinds=("emial",))
    with pytest.raises(ConfigError, match=r"columns\.note\.treatment\.known"):
        Redact(known=("nme",)).apply(TEXTS, ColumnContext("note", row_values={"name": NAMES}))

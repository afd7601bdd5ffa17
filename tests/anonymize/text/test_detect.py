"""What is found in texts written for this test, and what is not."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize.text.detect import KINDS, Finder, find, resolve
from fedsim.anonymize.text.known import KnownValues
from fedsim.anonymize.text.national_ids import KINDS as NATIONAL_IDS
from fedsim.anonymize.text.span import Span
from fedsim.errors import ConfigError

# kind, sentence with what is to be found between guillemets
FOUND = [
    ("email", "Write to «first.last+tag@mail.example.co.uk», please."),
    ("email", "<«o'neil@example.org»>"),
    ("email", "mail: «käthe@müller.example»"),
    ("url", "See «https://example.org/a/b?c=d#e» now"),
    ("url", "(see «www.example.org/path»)."),
    ("url", "Our shop, «shop.example.com», is open."),
    ("url", "it was at «http://user:pw@example.org:8080/x_(y)»."),
    ("ip", "from «192.168.0.1» to here"),
    ("ip", "host «2001:db8::8a2e:370:7334» is down"),
    ("ip", "host «fe80::1» is down"),
    ("phone", "Dial «+49 30 901820» at nine."),
    ("phone", "«+1 (650) 253-0000» is the front desk"),
    ("phone", "«(020) 7946 0958»"),
    ("phone", "call «1-800-555-0199»"),
    ("phone", "Tel.: «030/901820»"),
    ("phone", "my mobile is «079 123 45 67»"),
    ("phone", "Fax «555 0147» after six"),
    ("date", "born «1980-02-29» in May"),
    ("date", "on «3/4/21» and then"),
    ("date", "Am «3. Mai 1999» war es"),
    ("date", "le «14 juillet 1789»"),
    ("date", "since «January 5th, 2020» she"),
    ("date", "on «5 March» we met"),
    ("date", "at «2021-03-04T05:06:07Z» exactly"),
    ("date", "admitted «03/14», then"),
    ("year", "It began in «1977»."),
    ("age", "a «45»-year-old man"),
    ("age", "aged «7»"),
    ("age-over-89", "She turned «103» last week"),
    ("age-over-89", "a «92» y/o woman"),
    ("address", "He lives at «221B Baker Street»."),
    ("address", "wohnhaft in «Hauptstraße 5», hinten"),
    ("address", "12 is not one, «12 rue de la Paix» is"),
    ("address", "send it to «P.O. Box 1234», thanks"),
    ("address", "the office, «1600 Pennsylvania Ave NW, Suite 200»"),
    ("postcode", "London «SW1A 2AA»"),
    ("postcode", "Ottawa «K1A 0B1»"),
    ("postcode", "Springfield, IL «62704-1234»"),
    ("postcode", "ZIP code: «90210»"),
    ("medical-record", "MRN: «A-1234567»"),
    ("medical-record", "medical record number «00123456»"),
    ("health-plan", "Member ID «XYZ123456789»"),
    ("account", "account number is «0012345678»"),
    ("licence", "driver's license number «D1234567»"),
    ("licence", "Passport no. «C01X00T47»"),
    ("device", "serial number: «SN-99-ABC-1»"),
    ("device", "MAC «00:1A:2B:3C:4D:5E»"),
    ("plate", "license plate «7ABC123»"),
    ("plate", "Kennzeichen: «B-MW 1234»"),
    ("code", "Employee ID: «E12345»"),
    ("title", "«Dr.» Smith came"),
    ("person", "Dr. «Xylo Qwertz» came"),
    ("person", "my name is «Zorblax»"),
    ("person", "«Jennifer Hernandez» called."),
    ("person", "I met «Olga N. Petrovskaya-Ivanova» there"),
    ("person", "We asked «Carlos de la Cruz» twice"),
    ("person", "asked «Ian McAllister»'s mother"),
    ("person", "Dear «Quillon»,"),
    ("place", "She lives in «Oberunterdorf» now"),
    ("place", "a flight from «Buenos Aires» at nine"),
    ("organization", "She works for «Globex»."),
    ("organization", "«Initech Systems Inc» sent a letter"),
]
NOTHING = [
    "The quick brown fox jumps over the lazy dog while 12 of 34 birds watch.",
    "Version 1.2.3 and 10.4.19041.388 fix bug 1234567; see section 3.4.5.",
    "It costs $1,234.56 or 1.234,56 EUR, 3 000 000 in all, 12 500 000 over ten weeks.",
    "ISBN 978-3-16-148410-0 and ISSN 2049-3630 are books.",
    "for i in range(10): x[i] = std::max(a::b, c[i:j:k]); // main.py README.md foo.cc",
    "Mix 1/2 cup with 3/4 spoon; the score was 3-1, then 12-10; a ratio of 16:9.",
    "Blood pressure 120/80, pulse 72, temperature 37.2, saturation 98 %.",
    "He may march in the second week; will you mark the page and grant a wish?",
    "The value rose from 0.0012345 to 123456.789012 between steps 100 and 20000.",
    "pi is 3.14159265358979 and e is 2.718281828459045; 6.02214076e23 things.",
    "At 12:34:56 the train left, at 9:30 am the next one.",
    "e.g. this, i.e. that, etc. And so on... No.No spaces.",
    "Take 2 tablets of 500 mg every 8 hours for 10 days. Dr says no.",
    "SELECT * FROM table WHERE id = 42 AND hash = 'd41d8cd98f00b204e9800998ecf8427e'",
    "uuid 123e4567-e89b-12d3-a456-426614174000, commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
    "Fig. 12, Table 3, pp. 123-145, vol. 7, no. 3, doi:10.1000/182",
    "Size 10 x 20 x 30 cm, 5'11\", 180 lbs, 40% off, 3rd place, 21st century.",
    "The Second World War and the French Revolution changed European history.",
    "Please Note That All Headings May Be Written Like This One Is.",
]


@pytest.mark.parametrize(("kind", "marked"), FOUND)
def test_it_is_found_with_its_exact_place(kind, marked):
    before, rest = marked.split("«")
    value, after = rest.split("»")
    text = before + value + after
    spans = [(text[s.start : s.stop], s.start) for s in find(text) if s.kind == kind]
    assert (value, len(before)) in spans


GOLDEN = Path(__file__).parents[2] / "golden" / "text_spans.json"


def test_what_is_found_does_not_change_where_the_search_is_made_faster():
    """300 texts put together at random from pieces of these tests, in every script and out of form.

    What is found in them was recorded before the search was reordered.
    """
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))
    find = Finder()
    assert sum(len(spans) for _, spans in rows) > 400
    for text, spans in rows:
        assert [list(span) for span in find(text)] == spans, text


def test_every_kind_is_tested():
    elsewhere = {*NATIONAL_IDS, "iban", "card", "vehicle"}  # in test_national_ids.py
    assert set(KINDS) - elsewhere == {kind for kind, _ in FOUND}


@pytest.mark.parametrize("text", NOTHING)
def test_ordinary_text_is_left_alone(text):
    assert [(s.kind, text[s.start : s.stop]) for s in find(text)] == []


def test_only_the_kinds_that_are_asked_for():
    text = "Ann Miller, ann@example.org, born 1980-02-29"
    assert {s.kind for s in find(text, kinds=["email"])} == {"email"}
    with pytest.raises(ConfigError, match=r"emial.*Did you mean 'email'"):
        find(text, kinds=["emial"])


#: +49 30 901820 in full-width characters
WIDE = "".join(c if c == " " else chr(ord(c) + 0xFEE0) for c in "+49 30 901820")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f"Call {WIDE} now", WIDE),
        ("Call +49\u00a030\u00a0901820 now", "+49\u00a030\u00a0901820"),
        ("Call +49 30\u2013901820 now", "+49 30\u2013901820"),
        ("Call +4\u200b9 30 90\u00ad1820 now", "+4\u200b9 30 90\u00ad1820"),
        ("İİİ call +49 30 901820 now", "+49 30 901820"),
        ("😀😀 call +49 30 901820 now", "+49 30 901820"),
        ("SSN ١٢٣-٤٥-٦٧٨٩!", "١٢٣-٤٥-٦٧٨٩"),
    ],
)  # fmt: skip
def test_other_scripts_and_hidden_characters_do_not_hide_a_number(text, value):
    assert value in [text[s.start : s.stop] for s in find(text)]


def test_accents_written_apart_do_not_end_a_name():
    text = "Dr. Jose\u0301 Garci\u0301a came"
    assert "Jose\u0301 Garci\u0301a" in [text[s.start : s.stop] for s in find(text)]


def test_the_same_name_is_found_again():
    text = "My name is Zorblax Quux. Later Quux went home, and Zorblax slept."
    assert [text[s.start : s.stop] for s in find(text)] == ["Zorblax Quux", "Quux", "Zorblax"]


def test_an_unknown_name_in_a_list_of_names():
    text = "We saw Jennifer, Vrblx and Michael."
    assert [text[s.start : s.stop] for s in find(text)] == ["Jennifer", "Vrblx", "Michael"]


@given(st.text(max_size=300))
def test_spans_are_in_order_apart_and_inside(text):
    at = 0
    for span in find(text):
        assert at <= span.start < span.stop <= len(text)
        assert span.kind in KINDS
        assert 0 < span.score <= 1
        at = span.stop


@given(st.lists(st.sampled_from([marked.replace("«", "") for _, marked in FOUND] + NOTHING)))
def test_many_texts_at_once_are_read_as_one_by_one(texts):
    known = [KnownValues.of([text.split()[0]]) for text in texts]
    assert list(Finder().find_all(texts)) == [Finder()(text) for text in texts]
    expected = [Finder()(*pair) for pair in zip(texts, known, strict=True)]
    assert list(Finder().find_all(texts, known)) == expected


def test_values_are_known_of_every_text_or_of_none():
    with pytest.raises(ValueError, match="shorter"):
        list(Finder().find_all(["Ann", "Bob"], [KnownValues.of(["Ann"])]))


def test_a_block_of_texts_ends_no_column():
    texts = [f"Mail a{number}@example.org" for number in range(1000)]
    assert [span.stop for (span,) in Finder().find_all(iter(texts))] == [len(t) for t in texts]


@pytest.mark.parametrize(("kind", "marked"), FOUND)
def test_a_kind_is_found_by_itself(kind, marked):
    """Words that a family goes by are its own: another that asks for them may be left out."""
    before, value = marked.split("»")[0].split("«")
    text = marked.replace("«", "").replace("»", "")
    assert (len(before), len(before + value)) in {s[:2] for s in find(text, kinds=[kind])}


SPANS = st.builds(
    lambda start, size, kind, score: Span(start, start + size, kind, score),
    st.integers(0, 30),
    st.integers(1, 9),
    st.sampled_from("abc"),
    st.sampled_from([0.2, 0.5, 0.9]),
)


@given(st.lists(SPANS, max_size=12))
def test_overlaps_are_resolved_as_by_brute_force(spans):
    """Take the best of all, drop what overlaps it, and go on."""
    left, expected = list(spans), []
    while left:
        best = min(left, key=lambda s: (s.start - s.stop, -s.score, s.start, s.kind))
        expected.append(best)
        left = [s for s in left if s.stop <= best.start or best.stop <= s.start]
    kept = resolve(spans)
    if any(a != b and a.start < b.stop and b.start < a.stop for a in spans for b in spans):
        assert kept == sorted(expected, key=lambda s: s.start)
    covered = {i for s in kept for i in range(s.start, s.stop)}
    assert covered == {i for s in expected for i in range(s.start, s.stop)}


HOSTILE = {
    "ones": "1", "digits and spaces": "1 ", "at signs": "@", "addresses cut off": "a@b.",
    "dots": "a.", "colons": "a:", "hyphens": "1-", "brackets": "(1", "capitals": "A ",
    "words": "Aa ", "names": "Anna Smith, ", "slashes": "://", "pluses": "+1", "zeros": "00",
    "letters": "a", "upper": "A", "streets": "1 Aa Bb ", "dates": "1/1/", "months": "May ",
    "labels": "account ", "apostrophes": "A'", "accents": "A\u0301", "new lines": "\n",
    "ibans": "GB82 ", "cards": "4111 1111 1111 1112 ", "hidden": "\u200b1", "and": "A and ",
    "years": "in 1999 ", "titles": "Dr. ", "boxes": "PSC 1, Box ", "commas": "A, ",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_of_anything_is_read_to_its_end(name):
    """Anything worse than linear would take hours and end at the tests' time limit."""
    pattern = HOSTILE[name]
    text = (pattern * (2**20 // len(pattern) + 1))[: 2**20]
    at = 0
    for span in find(text):
        assert at <= span.start < span.stop <= len(text)
        at = span.stop

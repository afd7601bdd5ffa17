"""Validators on numbers that the issuing authorities or the standards publish as examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize.text import checksums
from fedsim.anonymize.text.cards import is_card
from fedsim.anonymize.text.detect import find
from fedsim.anonymize.text.iban import LENGTHS, is_iban
from fedsim.anonymize.text.labelled import is_vin
from fedsim.anonymize.text.national_ids import KINDS, is_valid

# kind -> valid examples, published by authorities, in the standards, and in the documentation of
# python-stdnum 2.2, which all of them are valid by as well.
EXAMPLES = {
    "us-ssn": ("536-90-4399", "457-55-5462"),
    "us-itin": ("912-90-3456", "900-70-0000"),
    "uk-nino": ("QQ123456C".replace("QQ", "AB"), "AA 12 34 56 A"),
    "uk-nhs": ("943 476 5919", "401 023 2137"),
    "de-tax-id": ("36 574 261 809", "86095742719"),  # of the Federal Central Tax Office's tests
    "fr-nir": ("2 95 10 99 126 111 93", "185057800608491", "2 53 07 2A 073 004 43"),
    "es-dni": ("54362315K", "12345678-Z"),
    "es-nie": ("X-2482300W", "X5253868R"),
    "it-codice-fiscale": ("RCCMNL83S18D969H", "RSSMRA85T10A562S"),
    "nl-bsn": ("111222333", "1112.22.333"),
    "pl-pesel": ("44051401359", "02070803628"),
    "be-rrn": ("85.07.30-033.28", "93.05.18-223.61", "17.07.30-033.84"),
    "ch-ahv": ("756.9217.0769.85", "756.1234.5678.97"),
    "se-personnummer": ("880320-0016", "811218-9876", "19811218-9876", "900101+9802"),
    "br-cpf": ("390.533.447-05", "111.444.777-35"),
    "in-aadhaar": ("2341 2341 2346", "234123412346"),
    "cn-resident-id": ("360426199101010071", "11010519491231002X"),  # GB 11643-1999's own
}
CASES = [(kind, number) for kind, numbers in EXAMPLES.items() for number in numbers]


def test_every_kind_has_examples():
    assert set(EXAMPLES) == set(KINDS)


@pytest.mark.parametrize(("kind", "number"), CASES)
def test_published_examples_are_valid(kind, number):
    assert is_valid(kind, number)


# Numbers whose rules are no check digit: any other digit may be as valid. Brazil's rule takes the
# remainders 10 and 0 for the same, so that it misses some.
WITHOUT_CHECK = ("us-ssn", "us-itin", "uk-nino", "br-cpf")


@pytest.mark.parametrize(
    ("kind", "number"), [case for case in CASES if case[0] not in WITHOUT_CHECK]
)
def test_a_wrong_digit_is_noticed(kind, number):
    """Each of these check digits sees every change of a single digit."""
    digits = [place for place, character in enumerate(number) if character.isdigit()]
    for place in digits:
        for digit in "0123456789":
            changed = number[:place] + digit + number[place + 1 :]
            if digit != number[place] and not _is_blind(kind, number, place, digit):
                assert not is_valid(kind, changed), changed


def _is_blind(kind: str, number: str, place: int, digit: str) -> bool:
    """Sweden's check digit does not cover the century."""
    if kind == "se-personnummer":
        return len(number) == 13 and place < 2
    return False


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("us-ssn", "000-12-3456"), ("us-ssn", "666-12-3456"), ("us-ssn", "900-12-3456"),
        ("us-ssn", "123-00-4567"), ("us-ssn", "123-45-0000"), ("us-ssn", "078-05-1120"),
        ("us-itin", "912-66-3456"), ("us-itin", "912-93-3456"), ("us-itin", "812-70-3456"),
        ("uk-nino", "QQ123456C"), ("uk-nino", "BG123456A"), ("uk-nino", "AO123456A"),
        ("br-cpf", "111.111.111-11"), ("in-aadhaar", "1234 1234 1230"),
        ("pl-pesel", "44133101359"), ("cn-resident-id", "110105194902310026"),
        ("de-tax-id", "01234567890"), ("nl-bsn", "000000000"),
    ],
)  # fmt: skip
def test_what_is_never_given_out_is_invalid(kind, number):
    assert not is_valid(kind, number)


NAMED = {  # what has to stand before a number written without separators
    "us-ssn": "SSN", "uk-nhs": "NHS number", "de-tax-id": "Steuer-ID", "nl-bsn": "BSN",
    "se-personnummer": "personnummer", "br-cpf": "CPF", "in-aadhaar": "Aadhaar",
}  # fmt: skip


@pytest.mark.parametrize(("kind", "number"), CASES)
def test_numbers_are_found_in_sentences(kind, number):
    text = f"It is {NAMED.get(kind, 'number')} {number}, as far as I know."
    spans = [span for span in find(text) if span.kind == kind]
    assert [text[span.start : span.stop] for span in spans] == [number]


@pytest.mark.parametrize("kind", sorted(NAMED))
def test_bare_digits_need_their_name(kind):
    bare = "".join(filter(str.isalnum, EXAMPLES[kind][0]))
    assert kind not in {span.kind for span in find(f"It is {bare} of them.")}


# Of the SWIFT registry, one for each length that occurs and more.
IBANS = (
    "AD1200012030200359100100", "AE070331234567890123456", "AT611904300234573201",
    "BE68539007547034", "BG80BNBG96611020345678", "BR9700360305000010009795493P1",
    "CH9300762011623852957", "DE89370400440532013000", "DK5000400440116243",
    "EE382200221020145685", "ES9121000418450200051332", "FI2112345600000785",
    "FR1420041010050500013M02606", "GB29NWBK60161331926819", "GR1601101250000000012300695",
    "HU42117730161111101800000000", "IE29AIBK93115212345678", "IL620108000000099999999",
    "IT60X0542811101000000123456", "LC55HEMM000100010012001200023015",
    "MT84MALT011000012345MTLCAST001S", "NL91ABNA0417164300", "NO9386011117947",
    "PL61109010140000071219812874", "PT50000201231234567890154", "SE4550000000058398257466",
    "SI56263300012039086", "VG96VPVG0000012345678901",
)  # fmt: skip


@pytest.mark.parametrize("iban", IBANS)
def test_ibans_of_the_registry(iban):
    assert len(iban) == LENGTHS[iban[:2]]
    assert is_iban(iban)
    printed = " ".join(iban[i : i + 4] for i in range(0, len(iban), 4))
    for written in (iban, iban.lower(), printed):
        text = f"Please pay to {written}."
        assert [text[s.start : s.stop] for s in find(text, kinds=["iban"])] == [written]


@given(st.sampled_from(IBANS), st.integers(4, 33), st.sampled_from("0123456789"))
def test_mod_97_sees_every_changed_digit(iban, place, digit):
    place %= len(iban)
    if place >= 4 and iban[place].isdigit() and iban[place] != digit:
        assert not is_iban(iban[:place] + digit + iban[place + 1 :])


# The test numbers that the networks and payment firms publish.
CARDS = (
    "4111111111111111", "4222222222222", "5555555555554444", "5105105105105100",
    "2223003122003222", "378282246310005", "371449635398431", "30569309025904",
    "38520000023237", "6011111111111117", "6011000990139424", "3530111333300000",
    "3566002020360505", "6200000000000005", "6759649826438453", "4000002500003155",
)  # fmt: skip


@pytest.mark.parametrize("card", CARDS)
def test_test_cards_of_the_networks(card):
    assert is_card(card)
    groups = " ".join(card[i : i + 4] for i in range(0, len(card), 4))
    for written in (card, groups) if len(card) == 16 else (card,):
        text = f"I paid with {written} on Monday."
        assert [text[s.start : s.stop] for s in find(text, kinds=["card"])] == [written]


@given(st.integers(10**11, 10**18))
def test_luhn_is_the_sum_of_doubled_digits(number):
    """Against the definition: from the right, every second digit doubled, digits summed."""
    total = sum(
        sum(divmod(int(digit) * (2 if place % 2 else 1), 10))
        for place, digit in enumerate(reversed(str(number)))
    )
    assert checksums.luhn(str(number)) == (total % 10 == 0)


@given(st.integers(0, 10**10), st.integers(0, 9), st.data())
def test_verhoeff_sees_every_transposition(number, place, data):
    body = str(number).zfill(11)
    valid = next(body + d for d in "0123456789" if checksums.verhoeff(body + d))
    swapped = list(valid)
    swapped[place], swapped[place + 1] = swapped[place + 1], swapped[place]
    changed = "".join(swapped)
    assert checksums.verhoeff(changed) == (changed == valid)


def test_vehicle_identification_numbers():
    """49 CFR 565 and the examples that NHTSA's decoder has."""
    assert is_vin("1M8GDM9AXKP042788")
    assert is_vin("11111111111111111")
    assert not is_vin("1M8GDM9A0KP042788")
    text = "The car, 1M8GDM9AXKP042788, is blue."
    assert [(s.kind, s.start) for s in find(text)] == [("vehicle", 9)]

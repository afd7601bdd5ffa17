"""Surrogates: values of the same kind that read like the ones they stand for and are nobody's.

Each is a keyed function of the value: equal values get equal surrogates under one key. Numbers and
addresses come from ranges that are reserved for examples and given to nobody:

| kind | reserved by |
|---|---|
| email, url | example.org, example.com: RFC 2606 |
| ip | 192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24: RFC 5737; 2001:db8::/32: RFC 3849 |
| phone | 555-0100 to 555-0199: NANPA; 07700 900000 to 900999: Ofcom |
| us-ssn | area 000 is never given out |
| iban | ZZ is no country (ISO 3166 user-assigned), 00 never a check number |
| card | no issuer begins with 0000, and the check digit is wrong on purpose |

Names of people are put together from frequent ones: many people have them, which is why they point
at none. Dates are moved by a fixed number of days. Whatever has no reserved range gets a keyed tag.
"""

import re
from collections.abc import Callable
from datetime import date, timedelta

from fedsim.anonymize.text.checksums import luhn
from fedsim.anonymize.text.dates import MONTHS
from fedsim.anonymize.text.redact import Replacement, code, keyed_tags

__all__ = ["shifted", "surrogates"]

_GIVEN = (
    "Alex", "Ana", "Anna", "Anton", "Carla", "Clara", "Daniel", "David", "Elena", "Emil", "Emma",
    "Eva", "Felix", "Hanna", "Helen", "Ida", "Jan", "Julia", "Karl", "Laura", "Lena", "Leon",
    "Lucas", "Maria", "Marta", "Martin", "Max", "Mona", "Nina", "Oscar", "Paul", "Peter", "Rita",
    "Robert", "Sara", "Simon", "Sofia", "Thomas", "Tina", "Victor",
)  # fmt: skip
_FAMILY = (
    "Anderson", "Baker", "Brown", "Clark", "Cook", "Cooper", "Davis", "Evans", "Fischer", "Garcia",
    "Gray", "Green", "Hall", "Harris", "Hill", "Jones", "King", "Lee", "Lewis", "Lopez", "Martin",
    "Meyer", "Miller", "Moore", "Morgan", "Nelson", "Parker", "Reed", "Roberts", "Scott", "Silva",
    "Smith", "Taylor", "Turner", "Walker", "Ward", "Weber", "White", "Wilson", "Young",
)  # fmt: skip
_PLACES = (
    "Ashbrook", "Birchfield", "Clearwater", "Dunmore", "Eastvale", "Fairhaven", "Glenford",
    "Hollowbrook", "Larkfield", "Millbrook", "Northvale", "Oakridge", "Pinecrest", "Redstone",
    "Stonebridge", "Westmere",
)  # fmt: skip
_STREETS = ("Example Street", "Sample Road", "Model Avenue", "Specimen Lane")
_NETS = ("192.0.2", "198.51.100", "203.0.113")
_MOST_DAYS = 365


def surrogates(key: bytes, date_key: bytes | None = None) -> Replacement:
    """Return a replacement by surrogates under a key; dates move by `date_key`'s number of days.

    With a `date_key` per subject, each subject's dates keep their distances, and those of two
    subjects do not show each other's.
    """
    tags = keyed_tags(key)
    days = _days(key if date_key is None else date_key)

    def surrogate(value: str, kind: str) -> str:
        if kind == "date":
            return shifted(value, days) or tags(value, kind)
        make = _MAKERS.get(kind)
        return tags(value, kind) if make is None else make(value, code(key, value, kind))

    return surrogate


def _days(key: bytes) -> int:
    """Return a shift of 1 to 365 days, back or forth."""
    number = int.from_bytes(code(key, "shift", "date")[:8], "big")
    return (number % _MOST_DAYS + 1) * (1 if number >> 63 else -1)


def _pick(choices: tuple[str, ...], seed: bytes) -> str:
    return choices[int.from_bytes(seed, "big") % len(choices)]


def _digits(seed: bytes, count: int) -> str:
    return str(int.from_bytes(seed, "big") % 10**count).zfill(count)


def _email(value: str, seed: bytes) -> str:
    return f"{_pick(_GIVEN, seed[:4]).lower()}.{seed[4:9].hex()}@example.org"


def _url(value: str, seed: bytes) -> str:
    start = "https://" if "://" in value else ""
    return f"{start}www.example.com/{seed[:6].hex()}"


def _ip(value: str, seed: bytes) -> str:
    if ":" in value:
        groups = (seed[i : i + 2].hex() for i in range(0, 12, 2))
        return f"2001:db8:{':'.join(groups)}"
    return f"{_pick(_NETS, seed[:4])}.{seed[4] % 254 + 1}"


def _phone(value: str, seed: bytes) -> str:
    if value.startswith(("+44", "0044", "07")):
        start = "07700" if value.startswith("07") else "+44 7700"
        return f"{start} 900{_digits(seed[:8], 3)}"
    area = 200 + int.from_bytes(seed[:4], "big") % 800
    number = f"{area}-555-01{_digits(seed[4:12], 2)}"
    return f"+1-{number}" if value.startswith(("+", "00")) else number


def _ssn(value: str, seed: bytes) -> str:
    return f"000-{_digits(seed[:8], 2)}-{_digits(seed[8:16], 4)}"


def _iban(value: str, seed: bytes) -> str:
    count = max(15, sum(map(str.isalnum, value))) - 4
    return f"ZZ00{_digits(seed, count)}"


def _card(value: str, seed: bytes) -> str:
    body = f"0000{_digits(seed, max(12, sum(map(str.isdigit, value))) - 5)}"
    right = next(digit for digit in "0123456789" if luhn(body + digit))
    return f"{body}{(int(right) + 1 + seed[-1] % 9) % 10}"


def _person(value: str, seed: bytes) -> str:
    family = _pick(_FAMILY, seed[:8])
    name = family if len(value.split()) == 1 else f"{_pick(_GIVEN, seed[8:16])} {family}"
    return name.upper() if value.isupper() and len(value) > 3 else name


def _organization(value: str, seed: bytes) -> str:
    return f"Example Company {_digits(seed[:8], 5)}"


def _address(value: str, seed: bytes) -> str:
    return f"{int.from_bytes(seed[:4], 'big') % 999 + 1} {_pick(_STREETS, seed[4:8])}"


_MAKERS: dict[str, Callable[[str, bytes], str]] = {
    "email": _email,
    "url": _url,
    "ip": _ip,
    "phone": _phone,
    "us-ssn": _ssn,
    "iban": _iban,
    "card": _card,
    "person": _person,
    "organization": _organization,
    "address": _address,
    "place": lambda value, seed: _pick(_PLACES, seed[:8]),
    "postcode": lambda value, seed: "00000",  # of nowhere: the lowest ZIP code is 00501
    "age-over-89": lambda value, seed: "90+",  # one class: 45 CFR 164.514(b)(2)(i)(C)
    "title": lambda value, seed: value,
}

_NUMBERS = re.compile(r"(\d{1,4})([-./])(\d{1,2})\2(\d{1,4})")
_NAME = re.compile(r"[^\W\d_]{3,}")
_DAY = re.compile(r"(?<!\d)\d{1,2}(?!\d)")
_YEAR = re.compile(r"\d{4}")
_ENGLISH = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip


def shifted(value: str, days: int) -> str:
    """Return a date moved by some days, in its own form; nothing where day or year is not in it.

    Day and month of 03/04/2021 are taken in the American order unless only the other one is a
    date; the distance between two dates written in one way stays as it is.

    >>> shifted("2024-02-28", 2), shifted("28 February 2024", 2), shifted("March", 2)
    ('2024-03-01', '1 March 2024', '')
    """
    match = _NUMBERS.search(value)
    if match:
        moved = _shifted_numbers(match, days)
        return f"{value[: match.start()]}{moved}{value[match.end() :]}" if moved else ""
    return _shifted_words(value, days)


def _shifted_numbers(match: re.Match[str], days: int) -> str:
    first, separator, middle, last = match.groups()
    if len(first) == 4:
        order, year = ((1, 2), (2, 1)), first
    else:
        order, year = ((0, 1), (1, 0)), last if len(last) == 4 else f"20{last}"
    parts = [first, middle, last]
    for month, day in order:
        moved = _moved(int(year), int(parts[month]), int(parts[day]), days)
        if moved:
            parts[month] = str(moved.month).zfill(len(parts[month]))
            parts[day] = str(moved.day).zfill(len(parts[day]))
            place = 0 if len(first) == 4 else 2
            parts[place] = str(moved.year)[-len(parts[place]) :]
            return separator.join(parts)
    return ""


def _shifted_words(value: str, days: int) -> str:
    name = next((m for m in _NAME.finditer(value) if m.group().lower() in MONTHS), None)
    day, year = _DAY.search(value), _YEAR.search(value)
    if name is None or day is None or year is None:
        return ""
    month = MONTHS[name.group().lower()]
    moved = _moved(int(year.group()), month, int(day.group()), days)
    if moved is None:
        return ""
    new = {name.span(): _ENGLISH[moved.month - 1], day.span(): str(moved.day)}
    new[year.span()] = str(moved.year)
    for (start, stop), text in sorted(new.items(), reverse=True):
        value = value[:start] + text + value[stop:]
    return re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", value)


def _moved(year: int, month: int, day: int, days: int) -> date | None:
    try:
        return date(year, month, day) + timedelta(days=days)
    except (ValueError, OverflowError):
        return None

"""A first draft of a schema, from the names, types, uniqueness and patterns of a table's columns.

Where nothing says what a column is, it is taken as known to others, a quasi-identifier, or left
out: a person may take that back, and will not notice what was forgotten. Domains are taken from
what is public (an age is 0 to 120) and from the data only where there is no other way, which is
marked: a domain made from records says something about them.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedsim.anonymize.files import TableFile, as_frame, chunks
from fedsim.anonymize.headers import Kind, kind_of
from fedsim.anonymize.schema import Role
from fedsim.anonymize.text.detect import Finder

__all__ = ["Guess", "Profile", "guess", "profiles", "propose", "to_toml"]

_MOST_VALUES = 2_000  # different ones that are kept of a column
_MOST_CATEGORIES = 100
_MANY = 0.9  # share of different cells from which a column names its rows
_OFTEN = 0.5  # share of cells with a pattern from which it is the column's
_LONG_TEXT = 40  # letters on average, from which text is free text
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?")
_PATTERNS = {
    "email": "e-mail addresses", "phone": "telephone numbers", "iban": "account numbers",
    "card": "card numbers", "ip": "internet addresses", "url": "web addresses",
    "us-ssn": "social security numbers",
}  # fmt: skip
_MISSING_TEXTS = ("?", "NA", "N/A", "n/a", "NULL", "null", "None", "nan", "NaN", "-")


@dataclass(slots=True)
class Profile:
    """What is known of a column after its cells were seen; `values`: the first different ones."""

    name: str
    cells: int = 0
    missing: int = 0
    letters: int = 0
    low: float = math.inf
    high: float = -math.inf
    is_numeric: bool = True
    is_whole: bool = True
    values: dict[str, int] = field(default_factory=dict)
    is_over: bool = False  # there are more different values than were kept
    placeholders: set[str] = field(default_factory=set)

    @property
    def there(self) -> int:
        """Return the number of cells that are not empty."""
        return self.cells - self.missing

    @property
    def uniqueness(self) -> float:
        """Return the share of different cells; of very many, 1."""
        return 1.0 if self.is_over else len(self.values) / max(self.there, 1)


@dataclass(frozen=True, slots=True)
class Guess:
    """What a column may be, and why."""

    name: str
    role: Role
    why: tuple[str, ...]
    hierarchy: Mapping[str, Any] | None = None
    treatment: Mapping[str, Any] | None = None
    missing: str = "refuse"

    def to_dict(self) -> dict[str, Any]:
        """Return the column as a schema has it."""
        plain: dict[str, Any] = {"role": self.role}
        if self.hierarchy is not None:
            plain["hierarchy"] = dict(self.hierarchy)
        if self.treatment is not None:
            plain["treatment"] = dict(self.treatment)
        if self.missing != "refuse":
            plain["missing"] = self.missing
        return plain


def profiles(
    table: TableFile, advance: Callable[[float], None] | None = None
) -> tuple[Profile, ...]:
    """Look at every cell of a table once."""
    found = [Profile(name) for name in table.columns]
    for batch in chunks(table, advance=advance):
        frame = as_frame(batch)
        for profile in found:
            _see(profile, frame[profile.name])
    return tuple(found)


def propose(found: tuple[Profile, ...]) -> tuple[tuple[Guess, ...], tuple[str, ...]]:
    """Return a guess for each column, and the texts that seem to stand for empty cells."""
    empty = sorted({text for profile in found for text in profile.placeholders})
    return tuple(guess(profile) for profile in found), tuple(empty)


def guess(profile: Profile) -> Guess:
    """Say what a column may be."""
    name, missing = profile.name, "own" if profile.missing else "refuse"
    if not profile.there:
        return Guess(name, "direct", ("every cell is empty: removed",))
    pattern = _pattern(profile)
    kind = kind_of(name)
    if pattern:
        return Guess(name, "direct", (f"more than half of the cells look like {pattern}",))
    if _is_free_text(profile):
        why = "long texts: whatever people wrote; personal data in them are looked for by rules"
        return Guess(name, "insensitive", (why,), treatment={"name": "redact"})
    if kind and kind.role == "direct" and not (kind.name == "record" and not _names_rows(profile)):
        return Guess(name, "direct", (f"its name says that it holds {kind.title}",))
    if kind and kind.role == "sensitive":
        return Guess(name, "sensitive", (f"its name says that it holds {kind.title}",))
    if _names_rows(profile):
        why = "nearly every cell is another one: whoever knows it knows the row"
        return Guess(name, "direct", (why,))
    hierarchy, why = _hierarchy(profile, kind)
    if hierarchy is None:
        return Guess(name, "direct", (why,))
    known = f"its name says that it holds {kind.title}, which others know" if kind else (
        "nothing says what it is, so it is taken as known to others: if it is not, make it "
        "sensitive or insensitive"
    )  # fmt: skip
    return Guess(name, "quasi", (known, why), hierarchy, missing=missing)


def to_toml(table: TableFile, guesses: tuple[Guess, ...], empty: tuple[str, ...]) -> str:
    """Return the draft as a schema file, with the reasons as comments."""
    import tomli_w

    lines = [
        f"# A draft from the columns of {table.path.name}. A person who knows the data has to look",
        "# at every role, because a program cannot know what others know; then: confirmed = true",
        "confirmed = false",
        "",
    ]
    if empty:
        shown = ", ".join(json.dumps(text, ensure_ascii=False) for text in empty)
        lines += ["# These seem to stand for empty cells.", f"empty = [{shown}]", ""]
    for each in guesses:
        lines += [f"# {reason}" for reason in each.why]
        lines.append(tomli_w.dumps({"columns": {each.name: each.to_dict()}}))
    return "\n".join(lines)


def _see(profile: Profile, cells: Any) -> None:
    import pandas as pd

    profile.cells += len(cells)
    profile.missing += int(cells.isna().sum())
    counts = cells.dropna().value_counts(sort=False)
    is_date = pd.api.types.is_datetime64_any_dtype(cells.dtype)
    for value, count in counts.items():
        text = str(value.date() if is_date else value).strip()
        if text in _MISSING_TEXTS:
            profile.missing += count
            profile.placeholders.add(text)
            continue
        profile.letters += len(text) * count
        _see_number(profile, text)
        if text in profile.values or len(profile.values) < _MOST_VALUES:
            profile.values[text] = profile.values.get(text, 0) + count
        else:
            profile.is_over = True


def _see_number(profile: Profile, text: str) -> None:
    if not profile.is_numeric:
        return
    try:
        number = float(text)
    except ValueError:
        profile.is_numeric = False
        return
    if not math.isfinite(number):
        profile.is_numeric = False
        return
    profile.low, profile.high = min(profile.low, number), max(profile.high, number)
    profile.is_whole &= number.is_integer()


def _pattern(profile: Profile) -> str:
    """Return what more than half of the cells look like, or nothing."""
    if profile.is_numeric or _is_free_text(profile):
        return ""
    counts = dict.fromkeys(_PATTERNS, 0)
    sample = list(profile.values)[:200]
    for text, spans in zip(sample, Finder(list(_PATTERNS)).find_all(sample), strict=True):
        for span in spans:
            if span.stop - span.start >= 0.8 * len(text):
                counts[span.kind] += 1
    best = max(counts, key=counts.__getitem__)
    return _PATTERNS[best] if counts[best] > _OFTEN * len(sample) else ""


def _is_free_text(profile: Profile) -> bool:
    is_long = profile.letters / max(profile.there, 1) > _LONG_TEXT
    spaced = sum(text.count(" ") >= 4 for text in list(profile.values)[:200])
    return is_long and spaced > _OFTEN * min(len(profile.values), 200)


def _names_rows(profile: Profile) -> bool:
    """Say whether a column tells rows apart: text, or whole numbers, nearly all different.

    Measurements with digits behind the point are nearly all different, too, and name nobody.
    """
    is_measured = profile.is_numeric and not profile.is_whole
    enough = profile.there >= 20 and not is_measured
    return enough and not _are_dates(profile) and profile.uniqueness > _MANY


def _are_dates(profile: Profile) -> bool:
    sample = list(profile.values)[:200]
    return sum(bool(_DATE.fullmatch(text)) for text in sample) > 0.9 * len(sample)


def _hierarchy(profile: Profile, kind: Kind | None) -> tuple[Mapping[str, Any] | None, str]:
    """Return a hierarchy, or None, and what it is from."""
    name = kind.name if kind else ""
    if name == "age" and profile.is_numeric and profile.low >= 0 and profile.high <= 120:
        return {"name": "intervals", "min": 0, "max": 120, "widths": [5, 10, 20, 40]}, (
            "the domain is public: no age is over 120"
        )
    if name == "zip" and (found := _digits(profile)):
        return {"name": "prefix", "length": found}, "the domain is every code of that length"
    if _are_dates(profile):
        return _dates(profile)
    if profile.is_numeric and len(profile.values) > 10:
        return _intervals(profile)
    if not profile.is_over and len(profile.values) <= _MOST_CATEGORIES:
        why = (
            "DOMAIN FROM THE DATA: list all values there may be, and group them in a taxonomy "
            "where they are many"
        )
        return {"name": "categories", "values": sorted(profile.values)}, why
    return None, "too many different values for a list: give it a taxonomy, or leave it removed"


def _digits(profile: Profile) -> int:
    """Return how many digits all codes have; 0 where they are none, or too many for a domain."""
    lengths = {len(text) for text in profile.values if text.isdigit()}
    all_digits = all(text.isdigit() for text in profile.values)
    longest = max(lengths, default=0)
    return longest if all_digits and longest <= 6 else 0


def _dates(profile: Profile) -> tuple[Mapping[str, Any], str]:
    years = [int(text[:4]) for text in profile.values]
    low, high = min(years) // 10 * 10, max(years) // 10 * 10 + 9
    why = "DOMAIN FROM THE DATA, in whole decades: say what dates there may be"
    found = {"name": "dates", "min": f"{low}-01-01", "max": f"{high}-12-31"}
    return found, why


def _intervals(profile: Profile) -> tuple[Mapping[str, Any], str]:
    """Return intervals over the numbers, the bounds rounded outwards to multiples of the widest."""
    span = max(profile.high - profile.low, 1e-9)
    width = 10.0 ** math.floor(math.log10(span / 20))
    step = 1.0 if profile.is_whole and span < 10_000 else width
    if step == 1.0 and not profile.is_whole:
        step = 0.5  # leaves of width 1 are whole numbers, which these are not
    widths = [step * factor for factor in (5, 10, 50) if step * factor < span]
    widest = widths[-1] if widths else step
    low = math.floor(profile.low / widest) * widest
    high = math.ceil((profile.high + 1e-12) / widest) * widest
    why = "DOMAIN FROM THE DATA, rounded outwards: say what numbers there may be"
    found = {"name": "intervals", "min": _short(low), "max": _short(high), "step": _short(step)}
    return found | {"widths": [_short(width) for width in widths]}, why


def _short(number: float) -> float | int:
    """Return a number without the digits that its binary form adds."""
    rounded = float(f"{number:.12g}")
    return int(rounded) if rounded.is_integer() else rounded

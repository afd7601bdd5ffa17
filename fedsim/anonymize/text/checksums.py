"""Check digits, each by the name it has in the standards; pure functions of ASCII digits."""

from datetime import date

__all__ = ["ean", "is_date", "iso7064_mod11_10", "iso7064_mod97", "luhn", "verhoeff", "weighted"]

# The dihedral group of order 10 and the permutation of Verhoeff, "Error Detecting Decimal Codes",
# 1969.
_PRODUCT = tuple(
    tuple(
        (i + j) % 5 if i < 5 and j < 5
        else 5 + (i + j) % 5 if i < 5
        else 5 + (i - j) % 5 if j < 5
        else (i - j) % 5
        for j in range(10)
    )
    for i in range(10)
)  # fmt: skip
_TURN = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def _turns() -> tuple[tuple[int, ...], ...]:
    rows = [tuple(range(10))]
    for _ in range(7):
        rows.append(tuple(_TURN[value] for value in rows[-1]))
    return tuple(rows)


_PERMUTATION = _turns()
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B: cards, Swedish personal numbers.

    >>> luhn("79927398713"), luhn("79927398710")
    (True, False)
    """
    total = 0
    for place, digit in enumerate(reversed(digits)):
        total += _DOUBLED[int(digit)] if place % 2 else int(digit)
    return total % 10 == 0


def verhoeff(digits: str) -> bool:
    """Verhoeff 1969: India's Aadhaar.

    >>> verhoeff("2363"), verhoeff("2364")
    (True, False)
    """
    state = 0
    for place, digit in enumerate(reversed(digits)):
        state = _PRODUCT[state][_PERMUTATION[place % 8][int(digit)]]
    return state == 0


def iso7064_mod11_10(digits: str) -> bool:
    """ISO/IEC 7064, MOD 11,10: the German tax number."""
    state = 10
    for digit in digits[:-1]:
        state = (state + int(digit)) % 10 or 10
        state = state * 2 % 11
    return (11 - state) % 10 == int(digits[-1])


def iso7064_mod97(text: str) -> bool:
    """ISO/IEC 7064, MOD 97-10, letters as 10 to 35: the IBAN with its first four moved last."""
    return int("".join(str(int(character, 36)) for character in text)) % 97 == 1


def ean(digits: str) -> bool:
    """EAN-13 (GS1): the Swiss social insurance number."""
    return sum(int(d) * (3 if i % 2 else 1) for i, d in enumerate(reversed(digits))) % 10 == 0


def weighted(digits: str, weights: tuple[int, ...]) -> int:
    """Return the sum of digits times weights."""
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def is_date(year: int, month: int, day: int) -> bool:
    """Say whether there is such a day."""
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True

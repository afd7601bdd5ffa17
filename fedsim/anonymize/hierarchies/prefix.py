"""Codes such as postal codes: masked from the end, one character per level."""

import itertools
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from fedsim.anonymize.hierarchies._tree import Hierarchy, from_paths
from fedsim.anonymize.hierarchies._values import places
from fedsim.errors import ConfigError, Problem

__all__ = ["Prefix"]

_ALPHABETS = {"digits": "0123456789", "letters": "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_MOST_LEAVES = 1_000_000


@dataclass(frozen=True, slots=True)
class Prefix:
    """Codes of `length` characters: 12345, 1234*, 123**, ... , *.

    The domain is every code of the alphabet, or `values` where they are given. Shorter numbers get
    the zeros back that a spreadsheet took from them.
    """

    length: Annotated[int, Ge(1)]
    alphabet: Literal["digits", "letters"] = "digits"
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the domain can be listed and codes are as long as they should be."""
        bad = [value for value in self.values if len(value) != self.length]
        if bad:
            raise ConfigError([Problem("values", bad[0], f"a code of {self.length} characters")])
        if len(set(self.values)) < len(self.values):
            raise ConfigError([Problem("values", list(self.values)[:5], "codes, each once")])
        if not self.values and len(_ALPHABETS[self.alphabet]) ** self.length > _MOST_LEAVES:
            accepted = f"a length with at most {_MOST_LEAVES:,} codes; or list the codes in values"
            raise ConfigError([Problem("length", self.length, accepted)])

    def build(self) -> Hierarchy:
        """Return the tree."""
        if self.values:
            return from_paths([self._path(code) for code in sorted(self.values)])[0]
        letters = _ALPHABETS[self.alphabet]
        count = len(letters) ** self.length
        index = np.arange(count)
        levels, labels = [], []
        for masked in range(self.length + 1):
            levels.append((index // len(letters) ** masked).astype(np.int32))
            kept = itertools.product(letters, repeat=self.length - masked)
            labels.append(tuple("".join(code) + "*" * masked for code in kept))
        labels[-1] = ("*",)
        return Hierarchy(tuple(levels), tuple(labels))

    def codes(self, column: Any) -> NDArray[np.int32]:
        """Return the leaf of each cell; -1 for what is no code of the domain."""
        if self.values:
            return places(column, sorted(self.values), self._text)
        letters = _ALPHABETS[self.alphabet]
        digit = {letter: i for i, letter in enumerate(letters)}

        def leaf(value: object) -> int:
            text = self._text(value)
            if len(text) != self.length or not set(text) <= digit.keys():
                return -1
            number = 0
            for letter in text:
                number = number * len(letters) + digit[letter]
            return number

        import pandas as pd

        indices, uniques = pd.factorize(column, use_na_sentinel=True)
        found = np.array([*(leaf(value) for value in uniques), -1], dtype=np.int32)
        codes: NDArray[np.int32] = found[indices]
        return codes

    def _path(self, code: str) -> list[str]:
        path = [code[: self.length - n] + "*" * n for n in range(self.length)]
        return [*path, "*"]

    def _text(self, value: object) -> str:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        text = str(value).strip()
        if self.alphabet == "digits" and not isinstance(value, str):
            return text.zfill(self.length)
        return text.upper() if self.alphabet == "letters" else text

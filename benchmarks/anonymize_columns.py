"""Cells treated per second on one core, beside what no treatment can be quicker than.

    python benchmarks/anonymize_columns.py [--cells 100000]

Every row treats a column of different cells, the best of three times; rows take turns, so that all
of them see the same machine. Floors are bare loops over cells that are bytes already: the standard
library's HMAC for pseudonyms, and the ten blocks that FF1 needs of AES at the least.
"""

import argparse
import hmac
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from fedsim.anonymize.pseudonym_keys import PseudonymKeys
from fedsim.anonymize.treatments import ColumnContext
from fedsim.anonymize.treatments.date_shift import DateShift
from fedsim.anonymize.treatments.format_preserving import FormatPreserving
from fedsim.anonymize.treatments.microaggregation import Microaggregation
from fedsim.anonymize.treatments.pseudonym import Pseudonym
from fedsim.crypto import encrypt_blocks, random_key

_TRIES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=100_000)
    cells = parser.parse_args().cells
    rows = _rows(cells)
    best = dict.fromkeys(rows, float("inf"))
    for _ in range(_TRIES):
        for name, treat in rows.items():
            start = time.perf_counter()
            treat()
            best[name] = min(best[name], time.perf_counter() - start)
    print(f"{cells:,} different cells, one thread, best of {_TRIES}")
    print(f"\n| {'column':<52} | cells/s    |\n|{'-' * 54}|-----------:|")
    for name, seconds in best.items():
        print(f"| {name:<52} | {cells / seconds:10,.0f} |")


def _rows(cells: int) -> dict[str, Callable[[], object]]:
    keys = PseudonymKeys(random_key())
    numbers = pd.Series([f"{i:09d}" for i in range(cells)])
    plates = pd.Series([f"AB-{i % 1000:03d}-{i // 1000:03d}x" for i in range(cells)])
    dates = pd.Series(pd.date_range("1930-01-01", periods=20_000).strftime("%Y-%m-%d"))
    dates = dates.iloc[np.arange(cells) % len(dates)].reset_index(drop=True)
    pay = pd.Series(np.random.default_rng(0).lognormal(10, 1, cells))
    ctx = ColumnContext("id", keys, numbers)
    return {
        "floor: hmac.digest in a loop": _hmac_loop(cells),
        "pseudonym, hex": lambda: Pseudonym().apply(numbers, ctx),
        "pseudonym, base32, 256 bits": lambda: Pseudonym("deterministic", 256, "base32").apply(
            numbers, ctx
        ),
        "pseudonym, randomized": lambda: Pseudonym("randomized").apply(numbers, ctx),
        "floor: AES, one cell at a time": _aes_loop(cells),
        "floor: AES, all cells at once": _aes_at_once(cells),
        "format-preserving, nine digits": lambda: FormatPreserving().apply(numbers, ctx),
        "format-preserving, AB-123-456x": lambda: FormatPreserving("alphanumeric").apply(
            plates, ctx
        ),
        "date-shift, a subject for each cell": lambda: DateShift().apply(dates, ctx),
        "microaggregation, k = 5": lambda: Microaggregation(5).apply(pay, ctx),
    }


def _hmac_loop(cells: int) -> Callable[[], object]:
    key, encoded = random_key(), [b"%09d" % i for i in range(cells)]
    return lambda: [hmac.digest(key, cell, "sha256") for cell in encoded]


def _aes_loop(cells: int) -> Callable[[], object]:
    key, block = random_key(), bytes(160)
    return lambda: [encrypt_blocks(key, block) for _ in range(cells)]


def _aes_at_once(cells: int) -> Callable[[], object]:
    key, blocks = random_key(), bytes(16 * cells)
    return lambda: [encrypt_blocks(key, blocks) for _ in range(10)]


if __name__ == "__main__":
    main()

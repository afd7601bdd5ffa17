"""Random numbers per second on one core: fedsim's secret noise beside NumPy and torch.

    python benchmarks/noise.py [--numbers 1000000] [--seconds 1]

Every row draws `numbers` at a time, again and again, and takes the best of five times; rows take
turns, so that all of them see the same machine. Inverse-CDF rows are what secret noise is usually
made with.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import special

from fedsim.crypto import KeyStream
from fedsim.privacy.discrete import discrete_gaussian
from fedsim.privacy.noise import Stream, integer_gaussian

_ROUNDS = 5


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    rows = _rows(arguments.numbers)
    rates = dict.fromkeys(rows, 0.0)
    for _ in range(_ROUNDS):
        for name, draw in rows.items():
            rate = _rate(draw, arguments.numbers, arguments.seconds / _ROUNDS)
            rates[name] = max(rates[name], rate)
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{arguments.numbers:,} at a time, one thread, {capability}")
    print(f"\n| {'numbers':<44} | million/s |\n|{'-' * 46}|----------:|")
    for name, rate in rates.items():
        print(f"| {name:<44} | {rate / 1e6:9.1f} |")


def _rows(numbers: int) -> dict[str, Callable[[], object]]:
    stream, theirs = Stream.secret(), np.random.default_rng()
    wide, narrow = torch.empty(numbers, dtype=torch.float64), torch.empty(numbers)
    array, array_narrow = wide.numpy(), narrow.numpy()
    few = max(numbers // 20, 1)

    def exact() -> None:
        for _ in range(0, numbers, few):
            discrete_gaussian(2**20, few, stream)

    return {
        "fedsim normals, float64": lambda: stream.fill_normals(wide),
        "fedsim normals, float32": lambda: stream.fill_normals(narrow),
        "fedsim integer_gaussian, scale 2^30": lambda: integer_gaussian(2.0**30, numbers, stream),
        "fedsim integer_gaussian, scale 2^50": lambda: integer_gaussian(2.0**50, numbers, stream),
        "fedsim laplace, float64": lambda: stream.laplace(numbers),
        "fedsim discrete_gaussian, exact, sigma 2^20": exact,
        "ChaCha20 + scipy ndtri, float64": _inverse(numbers, lambda u: special.ndtri(u, out=u)),
        "ChaCha20 + torch ndtri, float64": _inverse(numbers, _torch_inverse),
        "NumPy PCG64 standard_normal, float64": lambda: theirs.standard_normal(out=array),
        "NumPy PCG64 standard_normal, float32": lambda: theirs.standard_normal(
            dtype=np.float32, out=array_narrow
        ),
        "torch normal_, float64": wide.normal_,
        "torch normal_, float32": narrow.normal_,
    }


def _inverse(
    numbers: int, invert: Callable[[np.ndarray], object], block: int = 2**14
) -> Callable[[], None]:
    """Draw normals by the inverse of their distribution function, from 53 bits."""
    key = KeyStream(bytes(32))
    words, uniform = np.empty(block, dtype=np.uint64), np.empty(block)

    def draw() -> None:
        for _ in range(0, numbers, block):
            key.read_into(words.data.cast("B"))
            np.right_shift(words, 11, out=words)
            np.add(words, 0.5, out=uniform)
            np.multiply(uniform, 2.0**-53, out=uniform)
            invert(uniform)

    return draw


def _torch_inverse(uniform: np.ndarray) -> None:
    tensor = torch.from_numpy(uniform)
    torch.special.ndtri(tensor, out=tensor)


def _rate(draw: Callable[[], object], numbers: int, seconds: float) -> float:
    """Return numbers per second: the best of as many draws as fit into the time, two at least."""
    best, end = float("inf"), time.perf_counter() + seconds
    draws = 0
    while draws < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        draw()
        best, draws = min(best, time.perf_counter() - start), draws + 1
    return numbers / best


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--numbers", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Every random stream of a run, derived from (seed, purpose, round, client).

No stream depends on the number of workers, on the order in which clients run or on what was drawn
before, so the same seed gives the same bytes in process, on any number of workers and after a
resume. None of these streams is secret: noise and keys that must be secret do not come from here.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

__all__ = ["derive", "stream", "torch_stream"]


def derive(seed: int, purpose: str, *, round: int = -1, client: int = -1) -> int:
    """Derive a 128-bit integer from a seed and what it is for.

    >>> derive(1, "init") == derive(1, "init"), derive(1, "init") == derive(2, "init")
    (True, False)
    """
    key = f"fedsim/{seed}/{purpose}/{round}/{client}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:16], "big")


def stream(seed: int, purpose: str, *, round: int = -1, client: int = -1) -> np.random.Generator:
    """Return the NumPy generator of one purpose."""
    return np.random.Generator(np.random.PCG64(derive(seed, purpose, round=round, client=client)))


@contextmanager
def torch_stream(seed: int, purpose: str, *, round: int = -1, client: int = -1) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore them after it.

    Dropout and weight initialization draw from the global generators; this confines them.
    """
    import torch

    # Asking about GPUs would start CUDA in every process: only where it is in use already.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=list(devices)):
        number = derive(seed, purpose, round=round, client=client) % 2**63
        # torch.manual_seed remembers a traceback for every kind of device that is not in use yet.
        torch.default_generator.manual_seed(number)
        if devices:
            torch.cuda.manual_seed_all(number)
        yield

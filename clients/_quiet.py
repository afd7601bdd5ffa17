"""What a client says of its own failure under a secure sum: where, and of which kind; no number.

The text of an error may hold what must not leave the client: a coordinate, a weight, a loss. It
stays where it was raised.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsim.environment import is_out_of_memory
from fedsim.exact import InvalidUpdateError

__all__ = ["LostClientError", "quiet"]

_OUT_OF_BOUNDS = (
    "the update cannot be summed: NaN or infinity in it, a coordinate beyond secure_sum.max_abs, "
    "a wrong shape or weight (which of these stays with the client)"
)


class LostClientError(Exception):
    """A client that has nothing to add to the sum."""


@contextmanager
def quiet(is_secure: bool = True) -> Iterator[None]:
    """Replace errors by a `LostClientError` without their texts, where `is_secure`.

    Time limits and a lack of memory, which the engine deals with, stay what they are.
    """
    try:
        yield
    except Exception as error:
        if not is_secure or _is_of_the_engine(error):
            raise
        raise LostClientError(_told(error)) from None


def _told(error: Exception) -> str:
    if isinstance(error, LostClientError):
        return str(error)
    if isinstance(error, InvalidUpdateError):
        return _OUT_OF_BOUNDS
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(last.filename).name}, line {last.lineno}"
    return f"{type(error).__name__} in {place}; its text stays with the client"


def _is_of_the_engine(error: Exception) -> bool:
    return isinstance(error, TimeoutError) or is_out_of_memory(error)

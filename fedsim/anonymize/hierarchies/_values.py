"""Categories of a column as places in a list."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["places", "text_of"]


def text_of(value: object) -> str:
    """Return a cell as the text that a schema names it by: whole numbers without a point.

    >>> text_of(3.0), text_of(" Male"), text_of(True)
    ('3', 'Male', 'True')
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def places(
    column: Any, leaves: Sequence[str], text: Callable[[object], str] = text_of
) -> NDArray[np.int32]:
    """Return where each cell of a column is in a list of leaves; -1 for empty and unknown ones.

    "1.0" in a file of text is the leaf "1", unless there is a leaf "1.0": a program wrote whole
    numbers so because a cell of the column was empty.
    """
    import pandas as pd

    index = {leaf: i for i, leaf in enumerate(leaves)}
    indices, uniques = pd.factorize(column, use_na_sentinel=True)
    texts = [text(value) for value in uniques]
    found = [index.get(text, index.get(text.removesuffix(".0"), -1)) for text in texts]
    codes: NDArray[np.int32] = np.array([*found, -1], dtype=np.int32)[indices]
    return codes

"""How far below the norm that is accounted everything is clipped: a thousandth of it.

What float32 adds to a norm, in whatever way it is found, and to the sum of up to some thousand
vectors, stays below that.
"""

__all__ = ["MARGIN", "bound"]

#: Of the clipping norm.
MARGIN = 2.0**-10


def bound(clipping_norm: float) -> float:
    """Return the norm that updates or gradients are clipped to, where `clipping_norm` is accounted.

    >>> bound(1024.0)
    1023.0
    """
    return clipping_norm * (1 - MARGIN)

"""Addresses of Ray clusters, as a run may be given them."""

import re

__all__ = ["ADDRESSES", "is_address"]

ADDRESSES = "auto, local, HOST:PORT or ray://HOST:PORT"
_ADDRESS = re.compile(r"auto|local|(ray://)?[^\s/]+:\d+")


def is_address(text: str) -> bool:
    """Say whether a text can be where a Ray cluster is.

    >>> [is_address(text) for text in ("10.0.0.1:6379", "ray://head:10001", "head")]
    [True, True, False]
    """
    return _ADDRESS.fullmatch(text) is not None

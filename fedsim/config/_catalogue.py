"""Every part of a kind in a line each: name, what it is, its paper, what it goes with."""

import re
import sys
from typing import Any

from fedsim import registry
from fedsim.config._legality import legality
from fedsim.errors import ConfigError

__all__ = ["catalogue", "paper_of"]

_NAME = r"[A-Z][\w\-']+"
_PAPER = re.compile(
    rf"(?P<first>(?:El )?{_NAME})(?P<others>(?:, {_NAME})* and {_NAME}| et al\.),"
    r".{0,200}?\b(?P<year>(?:19|20)\d\d)\b"
)


def catalogue(group: str) -> list[dict[str, Any]]:
    """Describe every part of a group.

    `legality` is what `legality` found: flag -> "" or why not. A part of an installed package that
    cannot be imported is listed with what is wrong with it.
    """
    return [_described(group, name) for name in registry.names(group)]


def _described(group: str, name: str) -> dict[str, Any]:
    try:
        kind: Any = registry.load(group, name)
    except ConfigError as error:
        return {"name": name, "summary": str(error), "paper": "", "legality": {}}
    text = (sys.modules[kind.__module__].__doc__ or "").strip()
    return {
        "name": name,
        "summary": " ".join(text.partition("\n\n")[0].split()),
        "paper": paper_of(text),
        "legality": {flag: found.reason for flag, found in legality(group, name).items()},
    }


def paper_of(text: str) -> str:
    """Return the first paper that a docstring names, by authors and year; "" where there is none.

    >>> paper_of('Ditto. Li et al., "Ditto: fair and robust", ICML 2021, Algorithm 1.')
    'Li et al. 2021'
    >>> paper_of("Cosine decay over rounds (Loshchilov and Hutter, ICLR 2017, equation 5).")
    'Loshchilov and Hutter 2017'
    >>> paper_of("Hsu, Qi and Brown, 'Measuring the effects', 2019, section 4.3")
    'Hsu et al. 2019'
    >>> paper_of("Dense layers.")
    ''
    """
    found = _PAPER.search(" ".join(text.split()))
    if not found:
        return ""
    others = " et al." if "," in found["others"] else found["others"]
    return f"{found['first']}{others} {found['year']}"

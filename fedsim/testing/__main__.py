"""`python -m fedsim.testing NAME ...`: the contract tests of some parts, by name."""

import sys
from collections.abc import Sequence

import pytest

from fedsim import registry

__all__ = ["main"]


class _Only:
    """A pytest plugin that keeps the tests of some parts."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Drop the tests that none of the parts is in."""
        kept = [item for item in items if self.names & _parts_of(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def _parts_of(item: pytest.Item) -> set[str]:
    parameters = getattr(item, "callspec", None)
    return set(parameters.id.replace("+", "-+-").split("-+-")) if parameters else set()


def main(arguments: Sequence[str]) -> int:
    """Run pytest on the parts that are named; what is no part's name goes to pytest."""
    known = {*registry.names("strategies"), *registry.names("clients")}
    names = [argument for argument in arguments if argument in known]
    options = [argument for argument in arguments if argument not in known]
    plugins = [_Only(names)] if names else []
    return int(pytest.main(["--pyargs", "fedsim.testing", *options], plugins=plugins))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

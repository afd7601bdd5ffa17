"""Keys that only tests have, and what surrounds a column."""

import pytest

from fedsim.anonymize.pseudonym_keys import PseudonymKeys
from fedsim.anonymize.treatments import ColumnContext
from fedsim.crypto import key_of


@pytest.fixture(scope="session")
def keys():
    return PseudonymKeys(key_of("tests alone have this key"))


@pytest.fixture(scope="session")
def others():
    return PseudonymKeys(key_of("another key of tests"))


@pytest.fixture(scope="session")
def ctx(keys):
    return ColumnContext("id", keys)

"""Paths from a user's home."""

from pathlib import Path

import pytest

from fedsim.anonymize.pseudonym_keys import pseudonym_keys
from fedsim.errors import SetupError
from fedsim.files import from_home
from fedsim.sealing import storage_keys

UNKNOWN = "~no-such-user/keys/own.key"


def test_a_path_from_home(monkeypatch):
    monkeypatch.setenv("HOME", "/users/anna")
    assert from_home("~/runs") == Path("/users/anna/runs")
    assert from_home("runs/~") == Path("runs/~")
    assert from_home(UNKNOWN) == Path(UNKNOWN)


@pytest.mark.parametrize(
    ("keys", "variable"),
    [
        (storage_keys, "FEDSIM_STORAGE_KEY_FILE"),
        (lambda environ: pseudonym_keys(environ=environ), "FEDSIM_PSEUDONYM_KEY_FILE"),
    ],
)
def test_a_file_of_an_unknown_user_is_one_that_is_not_there(keys, variable):
    with pytest.raises(SetupError, match=r"~no-such-user/keys/own\.key"):
        keys({variable: UNKNOWN})

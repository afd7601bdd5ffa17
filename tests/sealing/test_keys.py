"""Storage keys: where they come from, in what form, and what is refused."""

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import SetupError
from fedsim.sealing import StorageKeys, key_id, new_key_line, storage_keys


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4, unique=True))
def test_keys_in_any_spelling(keys: list[bytes]) -> None:
    spellings = [
        lambda key: key.hex(),
        lambda key: key.hex().upper(),
        lambda key: base64.b64encode(key).decode(),
        lambda key: base64.urlsafe_b64encode(key).decode().rstrip("="),
    ]
    for spell in spellings:
        for between in (" ", ",", "\n", "  # a comment\n"):
            found = StorageKeys.parse(between.join(map(spell, keys)))
            assert list(found.keys.values()) == keys
            assert found.current == key_id(keys[-1])


@pytest.mark.parametrize("text", ["", "# nothing\n", "  \n"])
def test_no_key(text: str) -> None:
    with pytest.raises(SetupError, match="there is no key"):
        StorageKeys.parse(text)


@pytest.mark.parametrize(
    "word", ["secret", "ab" * 31, "ab" * 33, "é" * 44, base64.b64encode(bytes(31)).decode()]
)
def test_what_is_no_key_is_not_repeated_in_the_message(word: str) -> None:
    with pytest.raises(SetupError, match="key 2 of 2 is not 32 random bytes") as caught:
        StorageKeys.parse(f"{'11' * 32} {word}")
    assert word not in str(caught.value)
    assert "11" * 32 not in str(caught.value)


def test_a_key_given_twice() -> None:
    with pytest.raises(SetupError, match="given twice"):
        StorageKeys.parse(f"{'11' * 32} {base64.b64encode(bytes([0x11] * 32)).decode()}")


def test_keys_are_not_shown() -> None:
    assert "1111" not in repr(StorageKeys.parse("11" * 32))


def test_a_key_from_the_environment() -> None:
    found = storage_keys({"FEDSIM_STORAGE_KEY": "11" * 32})
    assert found == StorageKeys.of(bytes([0x11] * 32))


def test_a_key_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "storage.key"
    path.write_text(new_key_line() + new_key_line())
    path.chmod(0o600)
    found = storage_keys({"FEDSIM_STORAGE_KEY_FILE": str(path)})
    assert len(found.keys) == 2


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606, 0o660, 0o601])
def test_a_file_that_others_can_use_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "storage.key"
    path.write_text(new_key_line())
    path.chmod(mode)
    with pytest.raises(SetupError, match=f"permissions {mode:04o}.*chmod 600"):
        storage_keys({"FEDSIM_STORAGE_KEY_FILE": str(path)})


def test_a_file_that_is_missing_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"cannot read .*No such file"):
        storage_keys({"FEDSIM_STORAGE_KEY_FILE": str(tmp_path / "gone")})
    path = tmp_path / "storage.key"
    path.write_bytes(bytes(range(128, 160)))
    path.chmod(0o600)
    with pytest.raises(SetupError, match="not a file of keys"):
        storage_keys({"FEDSIM_STORAGE_KEY_FILE": str(path)})


def test_no_key_at_all_says_what_to_do() -> None:
    with pytest.raises(SetupError, match="FEDSIM_STORAGE_KEY_FILE") as caught:
        storage_keys({})
    assert caught.value.exit_code == 3


def test_two_sources_are_refused() -> None:
    with pytest.raises(SetupError, match="both set"):
        storage_keys({"FEDSIM_STORAGE_KEY": "11" * 32, "FEDSIM_STORAGE_KEY_FILE": "x"})


def test_new_keys_differ() -> None:
    lines = {new_key_line() for _ in range(20)}
    assert len(lines) == 20
    assert all(len(base64.b64decode(line)) == 32 for line in lines)
    assert os.linesep == "\n"

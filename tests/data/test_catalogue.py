"""What `fedsim data list|show|fetch` says, without loading a data set."""

from pathlib import Path

import pytest

from fedsim import registry
from fedsim.data import describe, fetch
from fedsim.errors import ConfigError


@pytest.mark.parametrize("name", registry.names("data"))
def test_every_data_set_describes_itself(name: str, tmp_path: Path) -> None:
    facts = describe(name, tmp_path)
    assert facts["name"] == name
    assert len(facts["summary"]) > 20
    assert {"task", "examples", "licence"} <= set(facts)
    assert facts["available"] == (not facts["files"])
    for file in facts["files"]:
        assert file["url"].startswith("https://")
        assert len(file["sha256"]) == 64
        assert file["url"].endswith(Path(file["path"]).name)


def test_files_that_are_there_are_found_and_verified(data_dir: Path) -> None:
    for name in ("mnist", "fashion-mnist", "heart-disease", "adult", "shakespeare"):
        facts = describe(name, data_dir)
        assert facts["available"]
        assert facts["place"].startswith(str(data_dir))
        paths = fetch(name, data_dir)
        assert [str(path.relative_to(data_dir)) for path in paths] == [
            file["path"] for file in facts["files"]
        ]


def test_a_name_nobody_has() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'mnist'"):
        describe("mnst")

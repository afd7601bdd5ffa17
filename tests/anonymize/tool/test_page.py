"""The worked example of docs/anonymization.md does what the page says."""

import re
import shlex
from pathlib import Path

import pytest

from fedsim.cli._app import main

PAGE = Path(__file__).resolve().parents[3] / "docs" / "anonymization.md"


def blocks():
    """The code of the example, as (language, text), in order."""
    text = PAGE.read_text(encoding="utf-8")
    section = text.split("## A worked example")[1].split("\n## ")[0]
    return re.findall(r"```(\w*)\n(.*?)```", section, re.DOTALL)


def test_the_worked_example(tmp_path, monkeypatch, capsys, data_dir):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDSIM_DATA", str(data_dir))
    out, codes = "", []
    for language, text in blocks():
        if language == "python":
            exec(text, {})  # the page's own words
        elif language == "toml":
            (tmp_path / "schema.toml").write_text(text)
        elif language == "text":
            printed = [line.rstrip() for line in out.splitlines()]
            for line in text.splitlines():
                assert line in printed
        else:
            for line in text.splitlines():
                monkeypatch.setattr("sys.argv", shlex.split(line))
                with pytest.raises(SystemExit) as caught:
                    main()
                codes.append(caught.value.code or 0)
                out = capsys.readouterr().out
    assert codes == [0, 0, 0, 0, 2]
    released = (tmp_path / "released.csv").read_text()
    assert "P0001" in (tmp_path / "hospital.csv").read_text()
    assert "P0001" not in released


def test_every_treatment_hierarchy_and_option_of_the_page_is_there():
    from fedsim import registry

    text = PAGE.read_text(encoding="utf-8")
    for group in ("treatments", "hierarchies"):
        for name in registry.names(group):
            assert f"`{name}`" in text, name

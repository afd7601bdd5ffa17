"""The documentation says what the code does."""

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from fedsim import config as configuration
from fedsim.anonymize.schema import schema_from_dict
from fedsim.cli._app import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def test_the_reference_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs/make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.page(text) == text, "run: python docs/make_reference.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def commands():
    names = {command.name for command in app.registered_commands}
    return names | {group.name for group in app.registered_groups}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_overrides_exist(page):
    """Every `fedsim ...` line names a command that is there; every override is one that loads."""
    for line in re.findall(
        r"^(?:\$ )?fedsim (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE
    ):
        words = shlex.split(line, comments=True)
        assert words[0] in commands(), line
        if words[0] == "run" and not any(w.startswith(("--", "[")) for w in words):
            names = [w for w in words[1:] if "=" not in w]
            experiment = names[0] if names else "digits"
            if experiment in configuration.experiments():
                overrides = [w for w in words[1:] if "=" in w]
                configuration.load(experiment, overrides, {})


def test_the_toml_in_the_docs_loads():
    for page in PAGES:
        for block in re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            content = tomllib.loads(block)
            if "columns" in content:
                schema_from_dict(content)
            elif "project" not in content:
                configuration.load(content, (), {})


def test_the_picture_is_there():
    picture = ROOT / "docs/images/report.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 1_000_000

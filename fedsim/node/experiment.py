"""The experiment that was signed, read back from its text; no file is opened for it."""

import json
import tomllib
from typing import Any

from fedsim import adversaries
from fedsim import config as configuration
from fedsim.config.schema import RunConfig
from fedsim.node.approval import RefusedError

__all__ = ["experiment_text", "read_experiment"]


def experiment_text(config: RunConfig) -> str:
    """Return the text of an experiment that an approver signs: all of its settings, and no place.

    Paths are the submitter's own, and no node looks there.
    """
    return json.dumps({"config": configuration.to_dict(config)}, sort_keys=True)


def read_experiment(text: str) -> RunConfig:
    """Return what was signed: JSON as `experiment_text` or `fedsim.federation.to_text` write it, or
    the TOML of an experiment that is complete in itself.

    Raises `RefusedError` for a text that is neither, `ConfigError` for one that cannot run.
    """
    try:
        is_json = text.lstrip().startswith("{")
        content: Any = json.loads(text) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError):
        raise RefusedError("the experiment is neither JSON nor TOML") from None
    config = configuration.from_dict(content.get("config", content))
    configuration.check(config)
    adversaries.must_be_simulated(config)
    return config

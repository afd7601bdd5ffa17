"""Anonymized records of the one client whose rows are here: nobody else's are asked for.

The same treatments, recoding and encoding as in a simulation (`fedsim.anonymized`), so the client's
features are the same, bit by bit. What other clients share is the schema alone: its domains are
public.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from fedsim.anonymize.client import exact
from fedsim.anonymize.encoding import encoding_of
from fedsim.anonymized import anonymized_clients
from fedsim.config import schema_of
from fedsim.config.schema import RunConfig
from fedsim.data import Declared, Elsewhere, Examples, OwnRows, declared_of
from fedsim.data._declared import meta_of
from fedsim.data._declared_raw import raw_own
from fedsim.errors import ConfigError, Problem

__all__ = ["open_own"]


def open_own(config: RunConfig, own: OwnRows) -> tuple[Elsewhere, dict[str, Any]]:
    """Return the clients as this machine sees them, and what anonymization of its rows came to.

    Raises `ConfigError` for protection that needs other clients' rows, and what reading and
    recoding the file raises.
    """
    declared = declared_of(config.data)
    if declared is None:
        accepted = "what all clients have in common: nobody here has all rows to read it off"
        raise ConfigError([Problem("data.declared", {}, accepted)])
    _refuse_common(config)
    schema = schema_of(config.anonymization)
    encoding = encoding_of(schema, config.data.target)
    meta = replace(meta_of(config.data, declared, ""), input_shape=(encoding.width,))
    if not own.path:
        return Elsewhere(meta, declared, {}, _nothing(encoding.width, declared)), {}
    raw = raw_own(config.data, declared, own, tuple(schema.columns))
    if own.client < 0:
        table = raw.table
        x = np.concatenate([exact(part, schema, encoding) for part in (table.train, table.test)])
        y = np.concatenate([table.dataset.train.y, table.dataset.test.y])
        return Elsewhere(meta, declared, {}, Examples(x, y)), {}
    clients, summary = anonymized_clients(config, raw, first=own.client)
    meta = replace(clients.meta, input_shape=(encoding.width,))
    parts = clients.train(0), clients.held_out(0)
    return Elsewhere(
        meta, declared, {own.client: parts}, _nothing(encoding.width, declared)
    ), summary


def _refuse_common(config: RunConfig) -> None:
    settings = config.anonymization
    if settings.cut != "local":
        accepted = "'local': with files of their own clients do not agree on a cut"
        raise ConfigError([Problem("anonymization.cut", settings.cut, accepted)])
    if settings.t_reference == "federation":
        accepted = "'client': how often others have a value is not known here"
        raise ConfigError([Problem("anonymization.t_reference", settings.t_reference, accepted)])


def _nothing(width: int, declared: Declared) -> Examples:
    kind = np.float32 if declared.task == "regression" else np.int64
    return Examples(np.zeros((0, width), np.float32), np.zeros(0, kind))

"""Anonymized records of the one client whose rows are here: nobody else's are asked for.

The same treatments, recoding and encoding as in a simulation (`fedsim.anonymized`), so the client's
features are the same, bit by bit. What other clients share is the schema alone: its domains are
public.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from fedsim.anonymize.client import exact
from fedsim.anonymize.encoding import Encoding, encoding_of
from fedsim.anonymize.schema import Schema
from fedsim.anonymized import SharedCut, anonymized_clients, sharing_clients
from fedsim.config import schema_of
from fedsim.config.schema import RunConfig
from fedsim.data import Declared, Elsewhere, Examples, Meta, OwnRows, RawClients, declared_of
from fedsim.data._declared import meta_of
from fedsim.data._declared_raw import raw_nobody, raw_own
from fedsim.errors import ConfigError, Problem

__all__ = ["open_own"]


def open_own(config: RunConfig, own: OwnRows) -> tuple[Elsewhere | SharedCut, dict[str, Any]]:
    """Return the clients as this machine sees them, and what anonymization of its rows came to.

    Where all are to generalize by one cut, they wait for it: `fedsim.anonymized.SharedCut`. Raises
    `ConfigError` for protection that needs other clients' rows, and what reading and recoding the
    file raises.
    """
    declared = declared_of(config.data)
    if declared is None:
        accepted = "what all clients have in common: nobody here has all rows to read it off"
        raise ConfigError([Problem("data.declared", {}, accepted)])
    _refuse_common(config)
    schema = schema_of(config.anonymization)
    encoding = encoding_of(schema, config.data.target)
    meta = replace(meta_of(config.data, declared, ""), input_shape=(encoding.width,))
    if config.anonymization.cut != "local" and config.anonymization.name != "raw":
        return _sharing(config, own, declared, meta), {}
    if not own.path:
        return Elsewhere(meta, declared, {}, _nothing(encoding.width, declared)), {}
    raw = raw_own(config.data, declared, own, tuple(schema.columns))
    if own.client < 0:
        return Elsewhere(meta, declared, {}, _tested(raw, schema, encoding)), {}
    clients, summary = anonymized_clients(config, raw, first=own.client)
    meta = replace(clients.meta, input_shape=(encoding.width,))
    parts = clients.train(0), clients.held_out(0)
    return Elsewhere(
        meta, declared, {own.client: parts}, _nothing(encoding.width, declared)
    ), summary


def _sharing(config: RunConfig, own: OwnRows, declared: Declared, meta: Meta) -> SharedCut:
    """Return the clients that wait for a cut: the one that is here, or none, on the server."""
    schema = schema_of(config.anonymization)
    nothing, nobody = _nothing(meta.input_shape[0], declared), len(declared.clients)
    columns = tuple(schema.columns)
    if not own.path:
        raw = raw_nobody(config.data, declared, columns)
        there = Elsewhere(meta, declared, {}, nothing)
        return sharing_clients(config, raw, meta, there, first=nobody)
    raw = raw_own(config.data, declared, own, columns)
    if own.client < 0:
        tested = _tested(raw, schema, encoding_of(schema, raw.table.target))
        there = Elsewhere(meta, declared, {}, tested)
        return sharing_clients(config, raw, meta, there, first=nobody)
    meta = replace(meta, sha256=raw.dealt.meta.sha256)
    waiting = sharing_clients(
        config, raw, meta, Elsewhere(meta, declared, {}, nothing), first=own.client
    )
    parts = raw.dealt.train(0), waiting.tested.held_out(0)
    return replace(waiting, elsewhere=Elsewhere(meta, declared, {own.client: parts}, nothing))


def _tested(raw: RawClients, schema: Schema, encoding: Encoding) -> Examples:
    """Return all rows of a file as a model is tested on them."""
    table = raw.table
    x = np.concatenate([exact(part, schema, encoding) for part in (table.train, table.test)])
    return Examples(x, np.concatenate([table.dataset.train.y, table.dataset.test.y]))


def _refuse_common(config: RunConfig) -> None:
    settings = config.anonymization
    if settings.t_reference == "federation" and settings.cut == "local":
        accepted = "'client' with cut = 'local': how often others have a value is not known here"
        raise ConfigError([Problem("anonymization.t_reference", settings.t_reference, accepted)])


def _nothing(width: int, declared: Declared) -> Examples:
    kind = np.float32 if declared.task == "regression" else np.int64
    return Examples(np.zeros((0, width), np.float32), np.zeros(0, kind))

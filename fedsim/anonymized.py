"""The clients of an experiment whose records are anonymized before anything is trained on them.

Each client's training rows are treated, recoded and encoded by `fedsim.anonymize.client`; what is
kept in the cache, and so what workers share, are features of released values and labels, in no
order that leads back to the file. Rows that a model is tested on are encoded exactly, wherever
they are opened: a client's held-out rows stay on the client, and the server's test set is its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fedsim import agreement, rng
from fedsim import data as datasets
from fedsim.anonymize import shared
from fedsim.anonymize.client import Prepared, Released, exact, prepare, release
from fedsim.anonymize.encoding import Encoding, encoding_of
from fedsim.anonymize.protection import Protection
from fedsim.anonymize.recode import Recode, recode
from fedsim.anonymize.recoding import Recoding
from fedsim.anonymize.report import shown
from fedsim.anonymize.risk import risks
from fedsim.anonymize.schema import Schema
from fedsim.config import schema_of
from fedsim.config.schema import Anonymization, RunConfig
from fedsim.data import Dataset, Examples, Meta, Partition, PooledClients, RawClients
from fedsim.data._cache import Cache, Kept, Rows
from fedsim.errors import ConfigError, DataError
from fedsim.privacy.noise import Stream
from fedsim.sealing import StorageKeys

__all__ = ["Charged", "anonymized_clients", "open_clients", "protection_of"]

#: (name of a data set, hash of its contents): where noise on sums of its rows is written down
Charged = Callable[[str, str], agreement.Charging]

_FORMAT = 1  # of what is kept; a change makes old folders unused
_PURPOSE = "anonymize"


@dataclass(frozen=True, eq=False)
class _Clients:
    """What all clients share before any row is looked at, and whose rows there are."""

    config: RunConfig
    schema: Schema
    encoding: Encoding
    protection: Protection
    raw: RawClients
    first: int = 0  # the number of the first of them, where others are elsewhere

    @property
    def settings(self) -> Anonymization:
        """Return the experiment's settings."""
        return self.config.anonymization

    @cached_property
    def rows(self) -> list[Prepared]:
        """Return every client's rows as codes, made when first asked for."""
        return _prepared(self)


@dataclass(frozen=True, eq=False)
class _Training:
    """The training part of all clients, one after the other, and what is reported of it."""

    x: NDArray[Any]
    y: NDArray[Any]
    group: NDArray[Any] | None
    offsets: NDArray[np.int64]
    summary: Mapping[str, Any]


def open_clients(
    config: RunConfig,
    *,
    data_dir: Path | None = None,
    cache_dir: Path | None = None,
    keys: StorageKeys | None = None,
    agreed: agreement.Agreed | None = None,
    charging: Charged | None = None,
) -> tuple[PooledClients, dict[str, Any]]:
    """Return the clients of an experiment with `[anonymization]`, and what that came to.

    `agreed`: the cut of a run that has begun, which is never agreed on again. `charging`: without,
    a cut that is to have noise is agreed on without it, and kept nowhere (`fedsim plan`). Raises
    what `fedsim.data.open_clients` raises, `ConfigError` or `DataError` for rows that are not what
    the schema says, and for clients that cannot have the protection.
    """
    settings, schema = config.anonymization, schema_of(config.anonymization)
    holdout = config.evaluation.holdout if config.evaluation.federated_every else 0.0
    raw = datasets.open_raw(
        config.data, config.partition, seed=config.seed, holdout=holdout, data_dir=data_dir
    )
    encoding = encoding_of(schema, raw.table.target)
    clients = _Clients(config, schema, encoding, protection_of(settings), raw)
    meta = replace(raw.table.dataset.meta, input_shape=(encoding.width,))
    if settings.name == "raw":  # nothing of raw records is kept anywhere
        found = _raw(clients)
    else:
        cache = Cache(cache_dir, keys) if cache_dir else None
        name = _key(config, holdout)
        if settings.cut != "local" and agreed is None:
            agreed = _agreed(clients, cache.kept(f"{name}-cut") if cache else None, charging)
        if agreed is not None:
            name += f"-{agreed.cut.fingerprint()[:16]}"
        if cache is None:
            found = _anonymized(clients, agreed)
        else:
            kept = cache.kept(name)
            if not kept.is_there:
                _save(_anonymized(clients, agreed), kept, meta)
            found = _load(kept)
    return _opened(clients, found, meta), dict(found.summary)


def anonymized_clients(
    config: RunConfig, raw: RawClients, *, first: int
) -> tuple[PooledClients, dict[str, Any]]:
    """Return clients whose rows are here, the first of them being client `first` of all.

    Nothing is kept. Raises what `open_clients` raises.
    """
    schema = schema_of(config.anonymization)
    encoding = encoding_of(schema, raw.table.target)
    protection = protection_of(config.anonymization)
    clients = _Clients(config, schema, encoding, protection, raw, first)
    meta = replace(raw.table.dataset.meta, input_shape=(encoding.width,))
    is_raw = config.anonymization.name == "raw"
    found = _raw(clients) if is_raw else _anonymized(clients, None)
    return _opened(clients, found, meta), dict(found.summary)


def protection_of(settings: Anonymization) -> Protection:
    """Return the protection that an experiment asks for."""
    is_given = settings.t_reference == "federation" and settings.cut == "local"
    reference: Literal["table", "given"] = "given" if is_given else "table"
    names = ("k", "diversity", "l", "c", "t", "delta")
    return Protection(t_reference=reference, **{name: getattr(settings, name) for name in names})


def _anonymized(clients: _Clients, agreed: agreement.Agreed | None) -> _Training:
    """Anonymize every client's rows, by the cut that all agreed on where they did."""
    rows = clients.rows
    references = _references(clients, rows)
    if agreed is None:
        recodings = _local(clients, rows, references)
    else:
        by = shared.merged if clients.settings.cut == "merged" else shared.assign
        recodings = [by(agreed.cut, own.encoded) for own in rows]
    released = [
        release(
            own,
            recoding,
            clients.encoding,
            clients.protection,
            suppressed=clients.settings.suppressed,
            references=references,
        )
        for own, recoding in zip(rows, recodings, strict=True)
    ]
    empty = sum(len(one.kept) == 0 for one in released)
    if empty:
        raise DataError(
            f"{empty} of {len(rows)} clients would have no row left to train on: lower "
            "anonymization.max_suppression, or set anonymization.suppressed=keep"
        )
    summary = _summary(clients, released, recodings) | (agreed.to_dict() if agreed else {})
    return _joined(
        clients, [one.features for one in released], [one.kept for one in released], summary
    )


def _raw(clients: _Clients) -> _Training:
    """Encode every client's rows as they are: what anonymization is compared with."""
    features = [
        exact(clients.raw.train(client), clients.schema, clients.encoding)
        for client in range(clients.raw.dealt.clients)
    ]
    kept = [np.arange(len(own)) for own in features]
    return _joined(clients, features, kept, {"name": "raw", **_inputs(clients)})


def _joined(
    clients: _Clients,
    features: Sequence[NDArray[np.float32]],
    kept: Sequence[NDArray[np.int64]],
    summary: Mapping[str, Any],
) -> _Training:
    """Put the clients' features and labels one after the other; `kept`: of which of their rows."""
    train = clients.raw.table.dataset.train
    rows = np.concatenate([clients.raw.rows(client)[own] for client, own in enumerate(kept)])
    offsets = np.cumsum([0, *map(len, kept)]).astype(np.int64)
    group = None if train.group is None else train.group[rows]
    return _Training(np.concatenate(features), train.y[rows], group, offsets, summary)


def _prepared(clients: _Clients) -> list[Prepared]:
    """Return every client's rows as codes. Raises an error that says whose rows are wrong."""
    settings = clients.settings
    sizes = np.diff(clients.raw.dealt.train_part.offsets)
    small = int((sizes < settings.k).sum())
    if small and not (settings.cut == "shared" and settings.k_over == "federation"):
        raise DataError(
            f"{small} of {len(sizes)} clients have fewer than anonymization.k = {settings.k} "
            "training rows, so nothing of theirs can be released: deal out to fewer clients "
            "(partition.clients), give each more rows (partition.min_size), or lower "
            "anonymization.k"
        )
    rows = []
    for client in range(len(sizes)):
        seed = rng.derive(clients.config.seed, _PURPOSE, client=clients.first + client)
        try:
            rows.append(prepare(clients.raw.train(client), clients.schema, clients.encoding, seed))
        except DataError as error:
            raise DataError(f"client {client}: {error}") from error
    return rows


def _references(
    clients: _Clients, rows: Sequence[Prepared]
) -> list[NDArray[np.number[Any]]] | None:
    """Return how often all clients have each sensitive value, where those are to be near to it."""
    settings = clients.settings
    if settings.t_reference == "client" or not clients.protection.is_about_values:
        return None
    columns = zip(*(own.encoded.sensitive for own in rows), strict=True)
    return [
        np.sum([np.bincount(one.codes, minlength=len(one.values)) for one in column], axis=0)
        for column in columns
    ]


def _local(
    clients: _Clients,
    rows: Sequence[Prepared],
    references: Sequence[NDArray[np.number[Any]]] | None,
) -> list[Recoding]:
    """Recode each client's rows by themselves. Raises an error that says how many cannot."""
    settings, found, failed = clients.settings, [], []
    for own in rows:
        try:
            recoding = recode(
                own.encoded,
                clients.protection,
                cast(Recode, settings.name),
                max_suppression=settings.max_suppression,
                references=references,
            )
        except (ConfigError, DataError) as error:
            failed.append(error)
        else:
            found.append(recoding)
    if failed:
        raise DataError(
            f"{len(failed)} of {len(rows)} clients cannot have what [anonymization] asks for (the "
            f"first: {failed[0]}). Ask for less, raise anonymization.max_suppression, or deal out "
            "so that every client has more rows, and more of the sensitive values"
        ) from failed[0]
    return found


def _agreed(clients: _Clients, kept: Kept | None, charging: Charged | None) -> agreement.Agreed:
    """Have all clients agree on one cut by secure sums, or return the one that they agreed on."""
    if kept is not None and kept.is_there:
        return agreement.agreed_from_dict(kept.facts())
    settings, meta = clients.settings, clients.raw.table.dataset.meta
    noise = settings.counts_noise_multiplier if charging else None
    assert settings.name in ("sets", "nodes")
    found = agreement.agree(
        [own.encoded for own in clients.rows],
        clients.schema.fingerprint(),
        clients.protection,
        clients.config.secure_sum,
        how=settings.name,
        k_over=settings.k_over if settings.cut == "shared" else "federation",
        set_aside=settings.cut == "shared",  # such rows would go up to the very top
        noise_multiplier=noise or 0.0,
        delta=settings.counts_delta or 0.0,
        stream=Stream.secret() if noise else None,
        charge=charging(meta.name, meta.sha256) if charging and noise else None,
    )
    if kept is not None and noise == settings.counts_noise_multiplier:
        kept.write({}, found.to_dict(), meta.sha256)
    return found


def _summary(
    clients: _Clients, released: Sequence[Released], recodings: Sequence[Recoding]
) -> dict[str, Any]:
    """Say what all clients reached: the least of them, and no number of people below k."""
    settings, facts = clients.settings, [one.facts for one in released]
    rows, left_out = (sum(getattr(one, key) for one in facts) for key in ("rows", "suppressed"))
    is_common = settings.cut == "shared" and settings.k_over == "federation"
    if is_common:  # a class is all clients' together
        sizes = _common_sizes(recodings)
        least, each = int(sizes.min()), [risks(sizes).to_dict()]
    else:
        least, each = min(one.k for one in facts), [dict(one.risks) for one in facts]
    number = shown(left_out, settings.k)
    names = ("k", "diversity", "l", "c", "t", "t_reference", "delta", "max_suppression")
    return {
        "name": settings.name,
        "cut": settings.cut,
        "over": "federation" if is_common else "client",
        "declared": {name: getattr(settings, name) for name in names},
        "clients": len(facts),
        "rows": rows,
        "suppressed": {
            "kept": settings.suppressed == "keep",
            "rows": number,
            "share": None if number is None else number / rows,
        },
        "reached": {
            "k": least,
            "l": _worst(min, [one.l for one in facts]),
            "t": _worst(max, [one.t for one in facts]),
            "delta": _worst(max, [one.delta for one in facts]),
        },
        "risks": {
            "prosecutor": max(one["prosecutor_max"] for one in each),
            "prosecutor_mean": float(np.mean([one["prosecutor_mean"] for one in each])),
            "journalist": max(one["journalist_max"] for one in each),
            "marketer": float(np.mean([one["marketer"] for one in each])),
        },
        "gcp": {
            "mean": float(np.mean([one.gcp for one in facts])),
            "least": min(one.gcp for one in facts),
            "most": max(one.gcp for one in facts),
        },
        "ncp": {
            name: float(np.mean([one.ncp[name] for one in facts]))
            for name in clients.encoding.quasi
        },
        **_inputs(clients),
    }


def _inputs(clients: _Clients) -> dict[str, Any]:
    """Say what models see."""
    encoding = clients.encoding
    return {
        "schema": clients.schema.fingerprint(),
        "quasi": list(encoding.quasi),
        "exact": list(encoding.exact),
        "left_out": list(encoding.left_out),
        "inputs": encoding.width,
    }


def _worst(of: Any, values: Sequence[float | None]) -> float | None:
    """Return the worst of all clients' values; None where one has none."""
    return None if None in values else of(values)


def _common_sizes(recodings: Sequence[Recoding]) -> NDArray[np.int64]:
    """Return how many rows all clients have of each combination of generalized values."""
    totals: dict[Any, int] = {}
    for recoding in recodings:
        names = [
            [
                (values.low[first:last].tobytes(), values.high[first:last].tobytes())
                for first, last in zip(values.offsets[:-1], values.offsets[1:], strict=True)
            ]
            for values in recoding.values
        ]
        for index, size in zip(recoding.index, recoding.sizes, strict=True):
            key = tuple(own[i] for own, i in zip(names, index, strict=True))
            totals[key] = totals.get(key, 0) + int(size)
    return np.array(list(totals.values()), dtype=np.int64)


def _opened(clients: _Clients, training: _Training, meta: Meta) -> PooledClients:
    """Return the clients: training as it was released, all that is tested on encoded exactly."""
    raw, encode = clients.raw, clients.encoding
    table, dealt = raw.table, raw.dealt
    test = replace(table.dataset.test, x=exact(table.test, clients.schema, encode))
    places = np.arange(len(training.y), dtype=np.int64)
    part = Partition(training.offsets, places, dealt.train_part.facts)
    data = Dataset(meta, Examples(training.x, training.y, training.group), test)
    if dealt.held_is_test:
        return PooledClients(meta, data, part, dealt.held_part, held_is_test=True)
    indices = dealt.held_part.indices
    rows = table.train.iloc[indices].reset_index(drop=True)
    x = exact(rows, clients.schema, encode) if len(rows) else test.x[:0]
    held_part = Partition(dealt.held_part.offsets, np.arange(len(indices), dtype=np.int64))
    held = Examples(x, table.dataset.train.y[indices])
    return PooledClients(meta, data, part, held_part, held_is_test=False, held=held)


def _key(config: RunConfig, holdout: float) -> str:
    """Name everything that determines what is kept."""
    settings = {**asdict(config.anonymization), "compare_raw": None, "format": _FORMAT}
    if config.anonymization.cut != "local":  # by which sums it was agreed on is reported
        settings["secure_sum"] = asdict(config.secure_sum)
    key = datasets.cache_key(
        config.data, config.partition, config.seed, holdout, anonymization=settings
    )
    return f"{key}-anonymized"


def _save(training: _Training, kept: Kept, meta: Meta) -> None:
    arrays = {name: getattr(training, name) for name in ("x", "y", "group", "offsets")}
    rows = {name: Rows.of(array) for name, array in arrays.items() if array is not None}
    kept.write(rows, {"summary": dict(training.summary)}, meta.sha256)


def _load(kept: Kept) -> _Training:
    group = kept.array("group") if kept.has("group") else None
    x, y, offsets = (kept.array(name) for name in ("x", "y", "offsets"))
    return _Training(x, y, group, offsets, kept.facts()["summary"])

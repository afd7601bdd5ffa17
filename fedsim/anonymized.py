"""The clients of an experiment whose records are anonymized before anything is trained on them.

Each client's training rows are treated, recoded and encoded by `fedsim.anonymize.client`; what is
kept in the cache, and so what workers share, are features of released values and labels, in no
order that leads back to the file. Rows that a model is tested on are encoded exactly, wherever
they are opened: a client's held-out rows stay on the client, and the server's test set is its own.

Where all generalize by one cut, the clients are opened before there is one, so that they can agree
on it: `SharedCut`. Nothing can be trained on then. Once there is a cut, a simulation releases all
clients' rows at once, a node those of its own client alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from fedsim.anonymize.schema import Schema
from fedsim.anonymize.shared import Cut
from fedsim.anonymize.table import Encoded
from fedsim.anonymized_facts import declared, inputs, reached
from fedsim.config import schema_of
from fedsim.config.schema import Anonymization, RunConfig
from fedsim.data import (
    ClientData,
    Dataset,
    Elsewhere,
    Examples,
    Meta,
    Partition,
    PooledClients,
    RawClients,
)
from fedsim.data._cache import Cache, Kept, Rows
from fedsim.errors import ConfigError, DataError, RunFailedError
from fedsim.sealing import StorageKeys

__all__ = [
    "Charged",
    "SharedCut",
    "agreed_on",
    "anonymized_clients",
    "known",
    "open_clients",
    "protection_of",
    "remember",
    "sharing_clients",
]

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
    made: dict[int, Prepared] = field(default_factory=dict)

    @property
    def settings(self) -> Anonymization:
        """Return the experiment's settings."""
        return self.config.anonymization

    @property
    def clients(self) -> int:
        """Return how many there are."""
        return self.raw.dealt.clients

    def rows(self, client: int) -> Prepared:
        """Return one client's rows as codes, made when first asked for."""
        if client not in self.made:
            self.made[client] = _prepared(self, client)
        return self.made[client]


@dataclass(frozen=True, eq=False)
class _Training:
    """The training part of all clients, one after the other, and what is reported of it."""

    x: NDArray[Any]
    y: NDArray[Any]
    group: NDArray[Any] | None
    offsets: NDArray[np.int64]
    summary: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class SharedCut:
    """Clients that generalize by one cut, opened before there is any: a `ClientData`.

    `cut`: that cut, once there is one, and `late`, who was in no sum of it; training rows are then
    released for one client at a time. `cache`: where a simulation keeps what it releases, `name` in
    it. `elsewhere`: where clients keep their rows, what this machine sees of them: `rows` are then
    those of at most one client.
    """

    rows: _Clients
    meta: Meta
    name: str
    cache: Cache | None = None
    elsewhere: Elsewhere | None = None
    cut: Cut | None = None
    late: tuple[int, ...] = ()
    released: dict[int, Examples] = field(default_factory=dict)
    by: dict[tuple[Cut, tuple[int, ...]], "SharedCut"] = field(default_factory=dict)

    @property
    def clients(self) -> int:
        """Return the number of clients."""
        return self.dealt.clients

    def sizes(self) -> NDArray[np.int64]:
        """Return how many training rows every client has: it may suppress some of them."""
        return self.dealt.sizes()

    def train(self, client: int) -> Examples:
        """Return one client's released rows. Raises `RunFailedError` before there is a cut."""
        if self.cut is None:
            raise RunFailedError("clients have not agreed on a cut: nothing is released yet")
        if client not in self.released:
            here = self._here(client)
            found, _ = _one(self.rows, here, self.cut, is_late=client in self.late)
            train = self.rows.raw.table.dataset.train
            places = self.rows.raw.rows(here)[found.kept]
            group = None if train.group is None else train.group[places]
            self.released[client] = Examples(found.features, train.y[places], group)
        return self.released[client]

    def held_out(self, client: int) -> Examples:
        """Return the rows one client is evaluated on, encoded exactly."""
        return (self.elsewhere or self.tested).held_out(client)

    def test(self) -> Examples:
        """Return the server's test set, encoded exactly."""
        return (self.elsewhere or self.tested).test()

    @property
    def dealt(self) -> ClientData:
        """Return the clients as they were dealt out: their sizes and labels."""
        return self.elsewhere or self.rows.raw.dealt

    @cached_property
    def tested(self) -> PooledClients:
        """Return the clients whose rows are here, without any to train on."""
        x = np.zeros((0, *self.meta.input_shape), np.float32)
        y = self.rows.raw.table.dataset.train.y[:0]
        offsets = np.zeros(self.rows.clients + 1, np.int64)
        return _opened(self.rows, _Training(x, y, None, offsets, {}), self.meta)

    def frame(self, client: int) -> Any:
        """Return one client's training rows as they were collected, a pandas frame."""
        return self.rows.raw.train(self._here(client))

    def counted(self, client: int) -> Encoded:
        """Return one client's rows as they are counted by a cut that grows."""
        return self.rows.rows(self._here(client)).encoded

    def _here(self, client: int) -> int:
        """Return the place of a client among those whose rows are here. Raises `DataError`."""
        place = client - self.rows.first
        if not 0 <= place < self.rows.clients:
            raise DataError(f"client {client} keeps its rows to itself: they are not here")
        return place

    def empty(self) -> Encoded:
        """Return what all clients' rows have in common: the schema's columns and domains."""
        import pandas as pd

        nobody = pd.DataFrame(columns=list(self.rows.schema.columns))
        return prepare(nobody, self.rows.schema, self.rows.encoding, 0).encoded

    def start(self) -> Cut:
        """Return the cut that has not begun, as the experiment asks for it."""
        settings = self.rows.settings
        assert settings.name in ("sets", "nodes")
        return shared.start(
            self.empty(),
            self.rows.schema.fingerprint(),
            self.rows.protection,
            how=settings.name,
            k_over=settings.k_over if settings.cut == "shared" else "federation",
            set_aside=settings.cut == "shared",  # such rows would go up to the very top
            noise_multiplier=settings.counts_noise_multiplier or 0.0,
        )

    @cached_property
    def began(self) -> bytes:
        """Return that cut as it is sent."""
        return self.start().encode()

    def by_cut(self, cut: Cut, late: Sequence[int] = ()) -> "SharedCut":
        """Return the clients by a cut, each of which releases its own rows when asked for them.

        `late`: clients that are in no sum of it. The same cut, the same object, gives the same.
        """
        key = cut, tuple(late)
        if key not in self.by:
            self.by[key] = replace(self, cut=cut, late=tuple(late), by={}, released={})
        return self.by[key]

    def together(self, agreed: agreement.Agreed) -> tuple[PooledClients, dict[str, Any]]:
        """Return all clients' released rows, from the cache where they are, and what that came to.

        Raises `DataError` for clients that cannot have the protection.
        """
        if self.cache is None:
            found = _anonymized(self.rows, agreed)
        else:
            kept = self.cache.kept(f"{self.name}-{agreed.cut.fingerprint()[:16]}")
            if not kept.is_there:
                _save(_anonymized(self.rows, agreed), kept, self.meta)
            found = _load(kept)
        return _opened(self.rows, found, self.meta), dict(found.summary)


def known(clients: SharedCut) -> agreement.Agreed | None:
    """Return the cut that clients of a simulation have agreed on before, if it was kept."""
    kept = _kept(clients)
    return agreement.agreed_from_dict(kept.facts()) if kept and kept.is_there else None


def remember(clients: SharedCut, agreed: agreement.Agreed) -> None:
    """Keep the cut for whoever comes later: the same rows are not cut another way."""
    if (kept := _kept(clients)) is not None:
        kept.write({}, agreed.to_dict(), clients.meta.sha256)


def _kept(clients: SharedCut) -> Kept | None:
    return clients.cache.kept(f"{clients.name}-cut") if clients.cache else None


def agreed_on(clients: SharedCut, agreed: agreement.Agreed) -> dict[str, Any]:
    """Say what was promised and agreed on, where nobody sees what every client reached."""
    own = clients.rows
    return declared(own.settings, own.schema, own.encoding) | agreed.to_dict()


def open_clients(
    config: RunConfig,
    *,
    data_dir: Path | None = None,
    cache_dir: Path | None = None,
    keys: StorageKeys | None = None,
    agreed: agreement.Agreed | None = None,
) -> tuple[PooledClients | SharedCut, dict[str, Any]]:
    """Return the clients of an experiment with `[anonymization]`, and what that came to.

    Where they are to generalize by one cut and `agreed`, the cut of a run that has begun, is not
    given, they wait for it. Raises what `fedsim.data.open_clients` raises, `ConfigError` or
    `DataError` for rows that are not what the schema says, and for clients that cannot have the
    protection.
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
        _must_have_rows(clients)
        cache = Cache(cache_dir, keys) if cache_dir else None
        name = _key(config, holdout)
        if settings.cut != "local":
            waiting = SharedCut(clients, meta, name, cache)
            return (waiting, {}) if agreed is None else waiting.together(agreed)
        if cache is None:
            found = _anonymized(clients, None)
        else:
            kept = cache.kept(name)
            if not kept.is_there:
                _save(_anonymized(clients, None), kept, meta)
            found = _load(kept)
    return _opened(clients, found, meta), dict(found.summary)


def sharing_clients(
    config: RunConfig, raw: RawClients, meta: Meta, elsewhere: Elsewhere, *, first: int
) -> SharedCut:
    """Return clients that wait for a cut, of which those whose rows are here begin with `first`."""
    schema = schema_of(config.anonymization)
    encoding, protection = (
        encoding_of(schema, raw.table.target),
        protection_of(config.anonymization),
    )
    rows = _Clients(config, schema, encoding, protection, raw, first)
    return SharedCut(rows, meta, "", elsewhere=elsewhere)


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
    if config.anonymization.name == "raw":
        found = _raw(clients)
    else:
        _must_have_rows(clients)
        found = _anonymized(clients, None)
    return _opened(clients, found, meta), dict(found.summary)


def protection_of(settings: Anonymization) -> Protection:
    """Return the protection that an experiment asks for."""
    is_given = settings.t_reference == "federation" and settings.cut == "local"
    reference: Literal["table", "given"] = "given" if is_given else "table"
    names = ("k", "diversity", "l", "c", "t", "delta")
    return Protection(t_reference=reference, **{name: getattr(settings, name) for name in names})


def _anonymized(clients: _Clients, agreed: agreement.Agreed | None) -> _Training:
    """Anonymize every client's rows, by the cut that all agreed on where they did."""
    everybody = range(clients.clients)
    if agreed is not None:
        pairs = [_one(clients, i, agreed.cut, is_late=i in agreed.late) for i in everybody]
    else:
        rows = [clients.rows(client) for client in everybody]
        references = _references(clients, rows)
        pairs = [
            (_released(clients, own, recoding, references), recoding)
            for own, recoding in zip(rows, _local(clients, rows, references), strict=True)
        ]
    released, recodings = zip(*pairs, strict=True)
    lacking = sum(not one.classes for one in recodings)
    if lacking and agreed is not None and agreed.cut.k_over == "client":
        raise DataError(
            f"{lacking} of {len(released)} clients have no class that has what [anonymization] "
            "asks for by itself, not even all their rows: ask for less, or "
            "anonymization.k_over=federation, or anonymization.cut=local"
        )
    empty = sum(len(one.kept) == 0 for one in released)
    if empty:
        raise DataError(
            f"{empty} of {len(released)} clients would have no row left to train on: lower "
            "anonymization.max_suppression, or set anonymization.suppressed=keep"
        )
    summary = reached(clients.settings, clients.schema, clients.encoding, released, recodings)
    summary |= agreed.to_dict() if agreed else {}
    return _joined(
        clients, [one.features for one in released], [one.kept for one in released], summary
    )


def _one(clients: _Clients, client: int, cut: Cut, *, is_late: bool) -> tuple[Released, Recoding]:
    """Return one client's rows by the cut that all agreed on. Raises `DataError`."""
    own = clients.rows(client)
    if clients.settings.cut == "merged":
        recoding = shared.merged(cut, own.encoded)
    else:
        recoding = shared.kept_by(cut, own.encoded, is_late=is_late)
    to_all = clients.settings.t_reference == "federation" and clients.protection.is_about_values
    references = [np.array(shares) for shares in cut.references] if to_all else None
    return _released(clients, own, recoding, references), recoding


def _released(
    clients: _Clients,
    own: Prepared,
    recoding: Recoding,
    references: Sequence[NDArray[np.number[Any]]] | None,
) -> Released:
    return release(
        own,
        recoding,
        clients.encoding,
        clients.protection,
        suppressed=clients.settings.suppressed,
        references=references,
    )


def _raw(clients: _Clients) -> _Training:
    """Encode every client's rows as they are: what anonymization is compared with."""
    features = [
        exact(clients.raw.train(client), clients.schema, clients.encoding)
        for client in range(clients.raw.dealt.clients)
    ]
    kept = [np.arange(len(own)) for own in features]
    return _joined(
        clients, features, kept, {"name": "raw", **inputs(clients.schema, clients.encoding)}
    )


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


def _must_have_rows(clients: _Clients) -> None:
    """Raise `DataError` where clients have fewer than k rows, and need them by themselves."""
    settings, sizes = clients.settings, clients.raw.dealt.sizes()
    small = int((sizes < settings.k).sum())
    if small and not (settings.cut == "shared" and settings.k_over == "federation"):
        raise DataError(
            f"{small} of {len(sizes)} clients have fewer than anonymization.k = {settings.k} "
            "training rows, so nothing of theirs can be released: deal out to fewer clients "
            "(partition.clients), give each more rows (partition.min_size), or lower "
            "anonymization.k"
        )


def _prepared(clients: _Clients, client: int) -> Prepared:
    """Return a client's rows as codes. Raises an error that says whose rows are wrong."""
    seed = rng.derive(clients.config.seed, _PURPOSE, client=clients.first + client)
    try:
        return prepare(clients.raw.train(client), clients.schema, clients.encoding, seed)
    except DataError as error:
        raise DataError(f"client {client}: {error}") from error


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

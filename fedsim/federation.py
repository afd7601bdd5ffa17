"""A `RunConfig` made real: the data, the model and the loss that server and clients share.

Server and clients build the same `Federation` from the same text, each in its own process, and keep
it for the whole run; on one machine the data behind it is one memory-mapped copy.
"""

import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from fedsim import adversaries, anonymized, anonymized_own, losses, metrics, models, root
from fedsim import config as configuration
from fedsim import data as datasets
from fedsim.adversaries import NOBODY, Adversaries, Poisoned
from fedsim.agreement import Agreed, agreed_from_dict
from fedsim.attacks.honest import Honest
from fedsim.clients._private import Private
from fedsim.coding import Shapes, Shared, kind_of
from fedsim.config.schema import Privacy, RunConfig, SecureSum
from fedsim.core import ClientContext, Public, Task, Update
from fedsim.crypto import random_key
from fedsim.data import ClientData, Examples, Meta, OwnRows
from fedsim.errors import ConfigError, Problem
from fedsim.exact import FixedPoint
from fedsim.privacy import central, example, local
from fedsim.privacy.events import DISCRETE
from fedsim.sealing import StorageKeys, storage_keys
from fedsim.secagg import ckks
from fedsim.selection.uniform import Uniform
from fedsim.transforms.unchanged import Unchanged

__all__ = [
    "Federation",
    "Places",
    "build",
    "doing",
    "entering",
    "examples_of",
    "forget",
    "from_text",
    "public_of",
    "shapes_of",
    "shared_by_all",
    "test_set",
    "to_text",
    "trained_module",
    "width",
]


@dataclass(frozen=True, slots=True)
class Places:
    """Where a process finds things: data files, the shared cache, folders of the user's code.

    `cut`: the generalization that clients agreed on, as JSON, where they did (`fedsim.agreement`).
    `own`: the rows of one client alone, between organisations; None where all rows are here.
    `is_default`: nobody said for this run where data files are, so that another machine may have
    them elsewhere: where its own FEDSIM_DATA says.
    """

    data_dir: str | None = None
    cache_dir: str | None = None
    code: tuple[str, ...] = ()
    cut: str = ""
    own: OwnRows | None = None
    is_default: bool = False


@dataclass(frozen=True, slots=True)
class Federation:
    """Everything a run needs besides who carries its messages.

    `population`: the clients there really are; in the pooled baseline `clients` has one more.
    `module` is resident: whoever uses it first sets its weights from a vector. `keys`: those that
    files are sealed with, if they are. `anonymization`: what it came to, where records are
    anonymized. `shown`: public inputs, where there are any. `adversaries`: who is malicious, in a
    simulation of it. `root`: rows of the server's own, for a strategy that trains on some.
    `adapted`: what clients train in place of `module`, where the transform has it so.
    """

    config: RunConfig
    clients: ClientData
    population: int
    module: nn.Module
    initial: Tensor
    counters: dict[str, Tensor]
    loss: losses.Loss
    metrics: tuple[str, ...]
    device: torch.device
    keys: StorageKeys | None = None
    anonymization: Mapping[str, Any] = field(default_factory=dict)
    shown: datasets.Shown | None = None
    adversaries: Adversaries = NOBODY
    root: Examples | None = None
    adapted: nn.Module | None = None

    @property
    def real_clients(self) -> ClientData:
        """Return the clients as data are dealt out to them, without the one of the baseline."""
        if isinstance(self.clients, anonymized.SharedCut):
            return self.clients.dealt
        if isinstance(self.clients, Poisoned):
            return self.clients.inner
        return self.clients.inner if isinstance(self.clients, datasets.Together) else self.clients

    @property
    def most_examples(self) -> int:
        """Return how many examples a client trains on at most: declared, or the largest client's.

        It is the same on every machine of a run, also where none has all rows.
        """
        is_pooled = isinstance(self.clients, datasets.Together)  # one has what all have
        declared = 0 if is_pooled else self.clients.meta.most_examples
        return declared or int(self.clients.sizes().max())

    @property
    def awaits_cut(self) -> bool:
        """Say whether clients have yet to agree on how their records are generalized."""
        return isinstance(self.clients, anonymized.SharedCut) and self.clients.cut is None

    @property
    def sharing(self) -> anonymized.SharedCut:
        """Return the clients, where they generalize by one cut and are not released together."""
        if not isinstance(self.clients, anonymized.SharedCut):
            raise ValueError("sharing: these clients agree on no cut")
        return self.clients

    def declared(self, agreed: Agreed) -> "Federation":
        """Return the federation as its server knows it: what was agreed on, and nobody's rows."""
        return replace(self, anonymization=anonymized.agreed_on(self.sharing, agreed))

    def task(
        self,
        model: Tensor,
        shards: Sequence[Examples],
        *,
        as_stored: bool = False,
        extras: Mapping[str, Tensor] = MappingProxyType({}),
        round: int = 0,
    ) -> Task:
        """Set the resident module to `model` and return what one client trains, or several.

        `as_stored`: for whoever turns images into numbers by himself. `extras`: what the strategy
        sent beside the model. `round`: what is trained may depend on it (`adapted`).
        """
        model, meta = model.to(self.device), self.clients.meta
        if self.adapted is not None:
            shared = shared_by_all(self, round, model)
            model = self.config.transform.start(shared).to(self.device)
        module = trained_module(self)
        self._set(model, module)
        read = datasets.as_stored if as_stored else datasets.together
        x, y = read(shards, meta, self.device)
        return Task(
            module=module,
            model=model,
            x=x,
            y=y,
            loss=self.loss,
            optimizer=self.config.optimizer,
            l1=self.config.regularization.l1,
            l2=self.config.regularization.l2,
            pixels=datasets.pixels_of(meta) if x.dtype == torch.uint8 else None,
            extras={name: extra.to(self.device) for name, extra in extras.items()},
            public=public_of(self),
            meta=meta,
        )

    def evaluate(self, model: Tensor | nn.Module, examples: Examples) -> dict[str, Tensor]:
        """Return the additive statistics of a model on examples, by metric, loss included.

        A vector is one of the resident module; what is a module already is tested as it is.
        """
        module = self.module if isinstance(model, Tensor) else model
        if isinstance(model, Tensor):
            self._set(model, self.module)
        x, y = examples_of(self, [examples])
        batch = self.config.evaluation.batch_size
        return metrics.evaluate(module, x, y, self.loss, self.metrics, batch)

    def encode(self, update: Update, form: FixedPoint | None, ctx: ClientContext) -> Update:
        """Return a client's update as it enters the sum; a malicious one sends what it likes."""
        return entering(self, self.adversaries.sent(update, ctx), form, ctx)

    def transform(self, form: FixedPoint | None, contexts: Sequence[ClientContext]) -> Any:
        """Return what is done to clients' updates before they are added up in a format."""
        privacy = self.config.privacy
        if privacy.unit == "local":
            noise, streams = privacy.noise_multiplier or 0.0, map(local.stream, contexts)
            own = local.mechanism_of(privacy.mechanism, privacy.clipping_norm, noise)
            return local.Randomized(own, tuple(streams))
        if form is not None and form.max_norm is not None:
            return central.clip(form.max_norm)
        whole = kind_of(self.config.transform) == "dense"
        return self.config.transform if whole else Unchanged()

    def weight(self, examples: float) -> float:
        """Return what a client counts for: its examples, or at most 1 where they are private.

        Where clients vote, each has one vote.
        """
        privacy = self.config.privacy
        if privacy.unit in ("user", "local"):
            return central.weight(examples, privacy.weight_cap)
        is_vote = getattr(self.config.transform, "adds", False)
        is_equal = getattr(self.config.strategy, "weights", "") == "equal"
        return 1.0 if is_vote or is_equal else examples

    def client_seed(self) -> int:
        """Return what clients' draws derive from: the run's seed, or a new secret at each call.

        Whoever trains takes one for a block of clients, and keeps it nowhere.
        """
        privacy = self.config.privacy
        adds_noise = privacy.unit in ("example", "local") or privacy.mechanism in DISCRETE
        is_secret = adds_noise and privacy.noise == "secret"
        return int.from_bytes(random_key()) if is_secret else self.config.seed

    def with_privacy(self, privacy: Privacy) -> "Federation":
        """Return the same federation with other settings of privacy: what was open is found."""
        return replace(self, config=_as_private(replace(self.config, privacy=privacy)))

    def with_secure_sum(self, secure_sum: SecureSum) -> "Federation":
        """Return the same federation with other settings of the secure sum."""
        return replace(self, config=replace(self.config, secure_sum=secure_sum))

    def _set(self, model: Tensor, module: nn.Module) -> None:
        models.set_vector(module, model)
        models.set_counters(module, self.counters)

    def lr_factor(self, round: int) -> float:
        """Return the factor of the client learning rate in a round."""
        return float(self.config.schedule.factor(round, self.config.rounds.count))


def entering(
    federation: Federation, update: Update, form: FixedPoint | None, ctx: ClientContext
) -> Update:
    """Return what a client sends as it enters the sum: clipped or randomized, and weighted."""
    rows = update.vector.unsqueeze(0)
    lanes = central.votes(lambda: torch.linalg.vector_norm(rows, dim=1), form) or update.lanes
    vector = federation.transform(form, [ctx]).encode(rows)[0]
    return replace(update, vector=vector, weight=federation.weight(update.weight), lanes=lanes)


def trained_module(federation: Federation) -> nn.Module:
    """Return the resident module that clients train."""
    return federation.module if federation.adapted is None else federation.adapted


def shapes_of(federation: Federation) -> Shapes:
    """Return the shapes of the model's tensors, in the order of its vector."""
    return tuple(shape for _, shape in models.layout(federation.module))


def shared_by_all(federation: Federation, round: int, model: Tensor) -> Shared:
    """Return what all know of a round in which the global model is `model`."""
    seed, shapes = federation.config.seed, shapes_of(federation)
    return Shared(shapes, seed, round, model, federation.module, federation.adapted)


def width(federation: Federation, round: int = 1) -> int:
    """Return how many numbers a client's update has in the sum of a round."""
    part = federation.config.transform
    if kind_of(part) != "linear":
        return federation.initial.numel()
    return int(part.width(shared_by_all(federation, round, federation.initial)))


def build(config: RunConfig, places: Places = Places()) -> Federation:
    """Open the data, build the initial model, and check that they fit each other.

    Where clients have yet to agree on a cut, the federation `awaits_cut`.
    Raises `DataError`, `MissingDataError` or `ConfigError` before anything is trained, `SetupError`
    where files are to be sealed and there is no key, or a library is missing.
    """
    if config.secure_sum.name == "ckks":
        ckks.require()
    keys = storage_keys() if config.storage.encrypt and places.cache_dir else None
    for folder in reversed(places.code):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    config = _as_private(_as_mode(config))
    clients, anonymization = _open(config, places, keys)
    population = clients.clients
    own_rows = None
    if places.own is None:
        clients, own_rows = root.rooted(config.strategy, clients, config.seed)
    malicious = adversaries.adversaries_of(config, population)
    clients, malicious = adversaries.poisoned(clients, malicious)
    if places.own is not None:
        adversaries.must_be_simulated(config)
        root.must_have_rows(config.strategy, has_own=False)
    if places.own is not None and places.own.client < 0:
        _check_server(config, places.own)
    if config.mode == "pooled":
        clients = datasets.Together(clients)
    configuration.check_data(config, clients.meta, population)
    shown = _public(config, places, clients)
    module = _module(config, clients.meta)
    blank = _blank(clients.meta)
    _check_forward(config, module, clients.meta, blank)
    _check_local(config, module, blank)
    device = _device(config.engine.device)
    if device.type == "cpu":
        models.arrange(module.eval(), blank)
    module = module.to(device)
    loss = config.loss if config.loss != "auto" else losses.default(clients.meta.kind)
    return Federation(
        config=config,
        clients=clients,
        population=population,
        module=module,
        initial=models.get_vector(module).cpu(),
        counters=models.get_counters(module),
        loss=losses.LOSSES[loss],
        metrics=tuple(config.metrics) or _default_metrics(clients.meta),
        device=device,
        keys=keys,
        anonymization=anonymization,
        shown=shown,
        adversaries=malicious,
        root=own_rows,
        adapted=_adapted(config, module),
    )


def _public(config: RunConfig, places: Places, clients: ClientData) -> datasets.Shown | None:
    public, folder = config.public, Path(places.data_dir) if places.data_dir else None
    if public.name == datasets.HELD_OUT and places.own is not None and places.own.client >= 0:
        if not getattr(config.local, "needs_public", False):
            return None  # it is the server's affair
        accepted = "a data set that nodes have too: the test set is with the server alone"
        raise ConfigError([Problem("public.name", public.name, accepted)])
    return datasets.show(
        public.name, public.rows, public.args, clients, seed=config.seed, data_dir=folder
    )


def _adapted(config: RunConfig, module: nn.Module) -> nn.Module | None:
    """Return what clients train in place of the model, None where they train the model itself."""
    if not hasattr(config.transform, "adapt"):
        return None
    try:
        adapted: nn.Module = config.transform.adapt(module)
    except ValueError as error:
        name = getattr(config.model, "name", type(config.model).__name__.lower())
        accepted = f"a model for transform {type(config.transform).__name__}: {error}"
        raise ConfigError([Problem("model.name", name, accepted)]) from error
    return adapted


def _check_server(config: RunConfig, own: OwnRows) -> None:
    """Refuse what a server cannot do that has no rows of its clients."""
    if not own.path and config.evaluation.central_every:
        accepted = "0: the server has no rows to test on"
        raise ConfigError(
            [Problem("evaluation.central_every", config.evaluation.central_every, accepted)]
        )
    declared = datasets.declared_of(config.data)
    if config.privacy.unit == "example" and not (declared and declared.rows):
        accepted = "how many rows each client trains on: what they spend follows from it"
        raise ConfigError([Problem("data.declared.rows", [], accepted)])


def doing(federation: Federation, epochs: int | None) -> Federation:
    """Return the same federation where clients do so many local epochs; None: as many as ever.

    Raises `TypeError` where local training is not counted in epochs.
    """
    if epochs is None:
        return federation
    local = replace(federation.config.local, epochs=epochs)
    return replace(federation, config=replace(federation.config, local=local))


def public_of(federation: Federation) -> Public | None:
    """Return the public inputs on the run's device, if the experiment has any."""
    shown = federation.shown
    return Public(shown.inputs(federation.device), federation.module) if shown else None


def test_set(federation: Federation) -> Examples:
    """Return the server's test set, without what is public of it."""
    test = federation.clients.test()
    return federation.shown.rest(test) if federation.shown else test


def examples_of(federation: Federation, shards: Sequence[Examples]) -> tuple[Tensor, Tensor]:
    """Return examples, one client's after the other's, as (inputs, targets) on the run's device."""
    return datasets.together(shards, federation.clients.meta, federation.device)


def to_text(config: RunConfig, places: Places) -> str:
    """Write a configuration and its places as the one string that travels to every process."""
    content = {"config": configuration.to_dict(config), "places": asdict(places)}
    return json.dumps(content, sort_keys=True)


@lru_cache(maxsize=2)
def from_text(text: str) -> Federation:
    """Build the federation that `to_text` described; once per process, then from memory."""
    content: Mapping[str, Any] = json.loads(text)
    places = {**content["places"], "code": tuple(content["places"]["code"])}
    places["own"] = OwnRows(**places["own"]) if places.get("own") else None
    if places.get("is_default"):
        places["data_dir"] = os.environ.get("FEDSIM_DATA") or places["data_dir"]
    return build(configuration.from_dict(content["config"]), Places(**places))


def forget() -> None:
    """Let go of the federations that `from_text` remembers, and so of what they opened."""
    from_text.cache_clear()


def _open(
    config: RunConfig, places: Places, keys: StorageKeys | None
) -> tuple[ClientData, dict[str, Any]]:
    """Open the clients, anonymized where the experiment says so, and say what that came to."""
    folders = {
        "data_dir": Path(places.data_dir) if places.data_dir else None,
        "cache_dir": Path(places.cache_dir) if places.cache_dir else None,
    }
    if config.anonymization.name != "none" and places.own is not None:
        return anonymized_own.open_own(config, places.own)
    if config.anonymization.name != "none":
        agreed = agreed_from_dict(json.loads(places.cut)) if places.cut else None
        return anonymized.open_clients(config, keys=keys, agreed=agreed, **folders)
    holdout = config.evaluation.holdout if config.evaluation.federated_every else 0.0
    clients = datasets.open_clients(
        config.data,
        config.partition,
        seed=config.seed,
        holdout=holdout,
        keys=keys,
        own=places.own,
        **folders,
    )
    return clients, {}


def _as_mode(config: RunConfig) -> RunConfig:
    """Turn an experiment into the baseline its mode names: nothing else in the file changes."""
    if config.mode == "federated":
        return config
    # A baseline is of honest clients, and asks all of them.
    config = replace(config, attack=Honest(), selection=Uniform())
    everyone = replace(config.rounds, cohort=None, min_results=1)
    plain = importlib.import_module("fedsim.strategies.fedavg").FedAvg()
    if kind_of(config.transform) != "dense":  # a baseline sends nothing that could be shorter
        config = replace(config, transform=Unchanged())
    if config.mode == "pooled":
        # One client has all the data and keeps its optimizer: centralized training.
        local = _plain(config.local)
        return replace(config, local=local, strategy=plain, rounds=everyone)
    alone = importlib.import_module("fedsim.clients.local_only").LocalOnly(
        inner=_plain(config.local)
    )
    return replace(config, local=alone, strategy=plain, rounds=everyone)


def _plain(local: Any) -> Any:
    """Return local training that is whole by itself and goes on from round to round."""
    if hasattr(local, "keep_optimizer"):
        return replace(local, keep_optimizer=True)
    kind = importlib.import_module("fedsim.clients.sgd").Sgd
    steps = getattr(local, "recipe", None) or local  # one without settings says them there
    names = [name for name in ("epochs", "steps", "batch_size") if hasattr(steps, name)]
    return kind(**{name: getattr(steps, name) for name in names}, keep_optimizer=True)


def _as_private(config: RunConfig) -> RunConfig:
    """Make local training DP-SGD where every example is private; the configuration itself stays."""
    privacy, local = config.privacy, config.local
    if privacy.unit != "example":
        return config
    inner = local.inner if isinstance(local, Private) else local
    made = Private(
        inner,
        privacy.clipping_norm,
        privacy.noise_multiplier,
        privacy.examples_at_once,
        privacy.engine,
    )
    return replace(config, local=made)


def _module(config: RunConfig, meta: Meta) -> nn.Module:
    """Build the model, where examples are private of layers that have gradients per example."""
    if config.privacy.unit != "example":
        return models.build(config.model, meta, config.seed)
    try:
        return models.build(config.model, meta, config.seed, example.replace_lstm)
    except ValueError as error:
        raise _unfit_model(config, str(error)) from error


def _blank(meta: Meta) -> Tensor:
    """Return two inputs of the data's kind, all zero."""
    dtype = torch.int64 if meta.vocabulary else torch.float32
    return torch.zeros(2, *meta.input_shape, dtype=dtype)


def _check_forward(config: RunConfig, module: nn.Module, meta: Meta, blank: Tensor) -> None:
    """Refuse a model that cannot take the data's inputs or gives other outputs than it should."""
    name = getattr(config.model, "name", type(config.model).__name__.lower())
    wanted = f"a model for inputs of shape {tuple(meta.input_shape)} and {meta.outputs} output(s)"
    try:
        with torch.no_grad():
            output = module.eval()(blank)
    except Exception as error:
        reason = f"{wanted}: this one raises {type(error).__name__}: {error}"
        raise ConfigError([Problem("model.name", name, reason)]) from error
    is_single = meta.outputs == 1 and output.shape == (2,)
    if not isinstance(output, Tensor) or (output.shape[-1] != meta.outputs and not is_single):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            [Problem("model.name", name, f"{wanted}: for two inputs it gives {found}")]
        )


def _check_local(config: RunConfig, module: nn.Module, blank: Tensor) -> None:
    """Refuse a model that the local algorithm cannot train, where it says so."""
    refuses = getattr(config.local, "refuses", None)
    if reason := refuses(module) if refuses else "":
        raise _unfit_model(config, reason)
    if config.privacy.unit == "example" and (name := _changed_buffer(module, blank)):
        reason = f"training changes its buffer {name}, which no noise would cover"
        raise _unfit_model(config, reason)


def _changed_buffer(module: nn.Module, blank: Tensor) -> str:
    """Return the name of a buffer that is sent with updates and that training changes, "" if none.

    The module is left as it was.
    """
    before = {n: b.clone() for n, b in module.named_buffers() if b.is_floating_point()}
    if not before:
        return ""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        module.train()(blank)
        for name, buffer in module.named_buffers():
            if name in before and not torch.equal(buffer, before[name]):
                buffer.copy_(before[name])
                return name
    return ""


def _unfit_model(config: RunConfig, reason: str) -> ConfigError:
    name = getattr(config.model, "name", type(config.model).__name__.lower())
    local = "privacy.unit = 'example'"
    if not isinstance(config.local, Private):
        local = f"local algorithm {type(config.local).__name__}"
    return ConfigError([Problem("model.name", name, f"a model for {local}: {reason}")])


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _default_metrics(meta: Meta) -> tuple[str, ...]:
    return metrics.default(meta.kind, is_language=meta.vocabulary == meta.outputs > 0)

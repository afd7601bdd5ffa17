"""`RunConfig`: everything an experiment says, validated. One TOML table per field.

Fields typed `Any` are parts (`registry.py`): their table is `name = "..."` plus the fields of that
part's dataclass. All other tables are the plain dataclasses below.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

__all__ = [
    "CORRELATED",
    "PARTS",
    "Anonymization",
    "Engine",
    "Evaluation",
    "Privacy",
    "Public",
    "Regularization",
    "Rounds",
    "RunConfig",
    "SecureSum",
    "Storage",
]

Mode = Literal["federated", "pooled", "local-only"]

#: Mechanisms of unit "user" whose noise is correlated over rounds.
CORRELATED = ("matrix", "blt")

#: config section -> (registry group, part used when the section does not name one)
PARTS = {
    "data": ("data", "digits"),
    "partition": ("partition", "dirichlet"),
    "model": ("models", "mlp"),
    "local": ("clients", "sgd"),
    "optimizer": ("optimizers", "sgd"),
    "schedule": ("schedules", "constant"),
    "transform": ("transforms", "unchanged"),
    "strategy": ("strategies", "fedavg"),
    "devices": ("devices", "untimed"),
    "attack": ("attacks", "honest"),
    "selection": ("selection", "uniform"),
}


@dataclass(frozen=True, slots=True)
class Rounds:
    """How many rounds, who takes part, and what makes a round count.

    `cohort`: clients asked per round, drawn by `[selection]`; unset asks all.
    `min_results`: a round with fewer results ends the run (it can be resumed).
    `timeout_s`: a client that takes longer in a round is lost for it; unset waits.
    `dropout`: simulated: each client of a cohort is lost with this probability, in a phase of the
    secure sum drawn evenly among the five (keys, shares, masked, confirm, unmask); who is lost in
    the last two has sent its update already. A plain sum loses the same clients.
    With `[devices]`, by the virtual clock: `deadline_s`: a round closes after so many simulated
    seconds. `late`: who would be later is left out ("drop"), or does as many whole epochs as it has
    time for ("partial"); unset: as the local algorithm declares (fedprox and fednova: "partial").
    `over_selection`: so many times `cohort` are asked, and the first `cohort` to answer count.
    """

    count: Annotated[int, Ge(1)] = 30
    cohort: Annotated[int, Ge(1)] | None = None
    min_results: Annotated[int, Ge(1)] = 1
    timeout_s: Annotated[float, Gt(0)] | None = None
    max_abs_update: Annotated[float, Gt(0)] = 1024.0
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    deadline_s: Annotated[float, Gt(0)] | None = None
    late: Literal["drop", "partial"] | None = None
    over_selection: Annotated[float, Ge(1)] = 1.0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """When the model is tested: on the server's test set and on every client's held-out examples.

    The last round is always evaluated; 0 turns an evaluation off. `holdout`: the fraction of every
    client's examples kept for federated evaluation; clients of a data set whose test part has
    natural clients too (`heart-disease`) are tested on their own part of that and hold nothing out.
    `clients`: a federated evaluation asks at most this many, drawn anew each time.
    """

    central_every: Annotated[int, Ge(0)] = 1
    federated_every: Annotated[int, Ge(0)] = 5
    holdout: Annotated[float, Ge(0), Lt(1)] = 0.1
    clients: Annotated[int, Ge(1)] = 1000
    batch_size: Annotated[int, Ge(1)] = 1024


@dataclass(frozen=True, slots=True)
class Regularization:
    """Penalties of local training: `l1` (proximal step, exact zeros), `l2` (in the gradient)."""

    l1: Annotated[float, Ge(0)] = 0.0
    l2: Annotated[float, Ge(0)] = 0.0


@dataclass(frozen=True, slots=True)
class Public:
    """Inputs that everybody may see, for methods that distill (`feddf`, `fedmd`): without labels.

    `name`: "none"; "held-out" takes `rows` of the server's test set, drawn by the seed, on which
    nothing is tested then; or the name of a data set whose inputs look alike, with `args` as its
    settings: `rows` of its training part.
    """

    name: str = "none"
    rows: Annotated[int, Ge(1)] = 500
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Privacy:
    """Differential privacy: whose data epsilon hides, with what noise, up to which budget.

    `unit`: "user" hides all of a client's data from whoever sees the models: updates are clipped to
    `clipping_norm` in L2 norm and noise is added once to their sum. "example" hides each example of
    a client, from the server too: `local` trains by DP-SGD, its gradients are clipped to
    `clipping_norm` and every step has noise; each client has an account and the whole budget, and
    leaves when it is spent. "local" hides a client's data from the server too: each clips its own
    update (L1 for "laplace") and randomizes it by `mechanism`, and has an account.
    `noise_multiplier`: standard deviation of the noise / `clipping_norm`, of unit "local" half of
    that; for "laplace" the scale's, for "privunit" 1 / the epsilon of an update; unset takes the
    least with which all rounds stay within `epsilon`. `epsilon`, `delta`: the budget of everything
    ever released about the data set in this unit, kept in a ledger; a round that would pass it is
    refused (exit code 4). `delta` unset: clients^-1.1, or examples^-1.1. The others are of unit
    "user" alone. `client_epsilon`: each client has an account in the run, with this budget at
    `delta`, and pays in each round by the norm of what it sent; who could not pay for a whole
    `clipping_norm` is not asked. Needs `noise_multiplier`; nothing is gained from sampling.
    `sampling`: "truncated" and "poisson" ask each client with probability
    `rounds.cohort` / clients, the first with a ceiling; "fixed" asks exactly `rounds.cohort`;
    "cyclic" asks all in turn, without amplification. `mechanism`: of unit "user" is "gaussian", or,
    with "cyclic", "matrix": the noise of a round takes back some of that before it (DP-FTRL by
    banded matrix factorization, in `bands` bands; unset: as many as rounds between two of one
    client) or "blt" (the same with `buffers` buffers of the model's size, which is less memory and
    a little more noise), or, under a secure sum, "skellam" or "discrete-gaussian": each client adds
    a part of the noise itself, and the server sees nothing without it. `weight_cap`: clients count
    by their examples up to so many; unset: all alike.
    `clipping`: "adaptive" lets the norm follow, from `clipping_norm` on, the `target_quantile` of
    the updates' norms, at the rate `clipping_lr`, with noise of standard deviation `bit_noise` on
    the count (unset: a twentieth of the cohort); both noises together are `noise_multiplier`.
    `examples_at_once`: of unit "example": a batch is computed in pieces of so many examples, where
    memory is short; a step still sees the whole batch, however large its draw made it. `engine`: of
    unit "example": what clips gradients: "fedsim" in one backward pass; "opacus" forms each
    example's, and "opacus-ghost" only their norms, in two passes, both one client after another.
    Batches, noise and accounting are the same, and so is the model, up to rounding.
    `noise`: "secret" comes from a cryptographic generator that nobody can repeat, and neither can
    the run; "seeded" can be repeated and is not private.
    """

    unit: Literal["none", "user", "example", "local"] = "none"
    mechanism: Literal[
        "gaussian", "matrix", "blt", "skellam", "discrete-gaussian", "laplace", "privunit"
    ] = "gaussian"
    bands: Annotated[int, Ge(1)] | None = None
    buffers: Annotated[int, Ge(1), Le(8)] | None = None
    epsilon: Annotated[float, Gt(0)] | None = None
    delta: Annotated[float, Gt(0), Lt(1)] | None = None
    client_epsilon: Annotated[float, Gt(0)] | None = None
    clipping_norm: Annotated[float, Gt(0)] = 1.0
    noise_multiplier: Annotated[float, Gt(0)] | None = None
    clipping: Literal["fixed", "adaptive"] = "fixed"
    target_quantile: Annotated[float, Ge(0), Le(1)] = 0.5
    clipping_lr: Annotated[float, Gt(0)] = 0.2
    bit_noise: Annotated[float, Gt(0)] | None = None
    sampling: Literal["truncated", "poisson", "fixed", "cyclic"] = "truncated"
    weight_cap: Annotated[float, Gt(0)] | None = None
    examples_at_once: Annotated[int, Ge(1)] | None = None
    engine: Literal["fedsim", "opacus", "opacus-ghost"] = "fedsim"
    noise: Literal["secret", "seeded"] = "secret"


@dataclass(frozen=True, slots=True)
class SecureSum:
    """Secure sums: what the server sees of updates, weights and training metrics of single clients.

    `name`: "plain": everything. "secagg": their sum alone, by pairwise masks between all clients of
    a cohort (Bonawitz et al., CCS 2017, with signed keys and survivors); "secagg+": the same with
    masks between neighbours in a sparse graph (Bell et al., CCS 2020), for cohorts of hundreds.
    "ideal" comes to the same sums, bit by bit, without masks: quick, simulated, protecting nothing.
    "ckks" encrypts updates under one key that all clients have, by TenSEAL (`pip install
    fedsim[ckks]`); a client opens the sum. Honest-but-curious server, no client colludes: a
    client's key opens every update. So it needs `adversaries = 0`.
    The other settings are of secure sums alone. `bits`: numbers are sent modulo 2^bits; fewer are
    cheaper and coarser; unset: 32, or 20 where clients add the noise of `privacy`. `max_abs`:
    bounds every coordinate of an update; a client beyond it is lost for the round; unset: 8, or
    what `privacy` clips to. `threshold`: the part of a cohort (of a
    client's neighbours, in a sparse graph) that has to stay to the end, or else the round is given
    up and the run ends (it can be resumed). `min_cohort`: the fewest clients ever summed.
    `adversaries`, `dropouts`: the parts of a cohort that may collude with the server, and be lost,
    for which "secagg+" chooses how many neighbours and shares there are; `semi_malicious`: even if
    the server lies to clients after their keys are fixed. `profile`: "fips" takes P-256 and ECDSA
    instead of X25519 and Ed25519.
    """

    name: Literal["plain", "ideal", "secagg", "secagg+", "ckks"] = "plain"
    bits: Literal[8, 12, 16, 20, 24, 28, 32] | None = None
    max_abs: Annotated[float, Gt(0)] | None = None
    threshold: Annotated[float, Gt(0.5), Lt(1)] = 2 / 3
    min_cohort: Annotated[int, Ge(2)] = 3
    adversaries: Annotated[float, Ge(0), Lt(0.5)] = 0.1
    dropouts: Annotated[float, Ge(0), Lt(0.5)] = 0.1
    semi_malicious: bool = True
    profile: Literal["standard", "fips"] = "standard"


@dataclass(frozen=True, slots=True)
class Anonymization:
    """Records are anonymized on the client, before local training: raw ones are not trained on.

    `name`: how quasi-identifiers are recoded: "nodes" (groups of their hierarchies), "sets" (any
    set of values), "full-domain" (a column at one level throughout). "raw" recodes nothing and is
    for comparison: the same columns, encoded alike. `schema`: what each column is: a file (from the
    folder of the file that says so), or a built-in one (adult, heart-disease); its content is kept
    in `columns`, `subject` and `empty`, which may be given instead.
    `k`, `diversity`, `l`, `c`, `t`, `delta`: what holds for every class of every client (see
    docs/anonymization.md); `t_reference`: the distribution that sensitive values must be near to:
    the client's own, or that of all clients together. `max_suppression`: the part of its records a
    client may suppress; `suppressed`: whether those are left out of training, or trained on with
    their quasi-identifiers hidden. `cut`: each client generalizes alone ("local"), or all by one
    tree that secure sums agree on ("shared", needs secagg, secagg+ or the simulated ideal), with k
    records of each class over the federation or on each client (`k_over`); with "merged" each then
    joins its classes of fewer. `counts_noise_multiplier`: Gaussian noise on the sums that a cut is
    agreed on by, over what one record moves them by; each sum is in the data set's ledger of single
    examples before it is opened. `counts_delta` goes with it; `counts_epsilon` is the budget: a sum
    that would pass it is not opened (exit code 4). It hides a record from whoever sees the cut, and
    from nobody who sees more. `compare_raw`: a run of simulation is followed by the same with raw
    records, and the report has both.
    """

    name: Literal["none", "raw", "nodes", "sets", "full-domain"] = "none"
    schema: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    subject: str | None = None
    empty: tuple[str, ...] = ()
    k: Annotated[int, Ge(2)] = 5
    diversity: Literal["none", "distinct", "entropy", "recursive"] = "none"
    l: Annotated[float, Ge(1)] = 2.0  # noqa: E741 - the literature's name
    c: Annotated[float, Gt(0)] = 3.0
    t: Annotated[float, Gt(0), Le(1)] | None = None
    t_reference: Literal["client", "federation"] = "client"
    delta: Annotated[float, Gt(0)] | None = None
    max_suppression: Annotated[float, Ge(0), Lt(1)] = 0.0
    cut: Literal["local", "shared", "merged"] = "local"
    k_over: Literal["federation", "client"] = "federation"
    counts_noise_multiplier: Annotated[float, Gt(0)] | None = None
    counts_epsilon: Annotated[float, Gt(0)] | None = None
    counts_delta: Annotated[float, Gt(0), Lt(1)] | None = None
    suppressed: Literal["keep", "drop"] = "drop"
    compare_raw: bool = True


@dataclass(frozen=True, slots=True)
class Engine:
    """Where and how clients run: how fast a run is; of its result only the last rounding.

    `workers`: Ray actors; unset takes one per core (or GPU share). `tier`: how a worker trains the
    clients of a block (docs/performance.md); "auto" measures which is fastest. `block_size`:
    clients trained at once, or in the tiers up to "resident" clients that travel together.
    `device`: "auto" takes the GPU where there is one. `gpus_per_worker`: unset shares the GPUs
    evenly among the workers. `ray_address`: the Ray cluster to join, HOST:PORT, ray://HOST:PORT or
    "auto" (the one on this machine); unset takes the environment variable RAY_ADDRESS, else, as
    "local" always does, a Ray of the run's own.
    """

    grid: Literal["ray", "inprocess"] = "ray"
    workers: Annotated[int, Ge(1)] | None = None
    tier: Literal["auto", "messages", "resident", "vectorized", "low-rank"] = "auto"
    block_size: Annotated[int, Ge(1)] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpus_per_worker: Annotated[float, Gt(0)] | None = None
    ray_address: str | None = None


@dataclass(frozen=True, slots=True)
class Storage:
    """What is kept on disk, and whether whoever has the disk can read it.

    `encrypt`: checkpoints, the model, clients' memos, the log and the cache of prepared data are
    sealed by AES-256-GCM under the key that FEDSIM_STORAGE_KEY_FILE or FEDSIM_STORAGE_KEY gives,
    which every machine of the run needs. What stays readable (metrics, settings, the report) is in
    docs/encryption.md. `report`: a run that ends draws its report; without, `fedsim report RUN`
    does at any time, which saves many small runs more than half of their time.
    """

    encrypt: bool = False
    report: bool = True


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One experiment. `mode` reruns the same file as a baseline: all data pooled, or each alone.

    `model` may also be `name = "module:function"` with `args = {...}`, a function of the user's
    that returns an `nn.Module`. `loss` and `metrics` are picked by the data's task when unset.
    """

    name: str = "experiment"
    seed: Annotated[int, Ge(0)] = 0
    mode: Mode = "federated"
    data: Any = None
    partition: Any = None
    model: Any = None
    loss: Literal["auto", "cross_entropy", "binary", "mse", "mae"] = "auto"
    metrics: tuple[str, ...] = ()
    local: Any = None
    optimizer: Any = None
    schedule: Any = None
    regularization: Regularization = field(default_factory=Regularization)
    transform: Any = None
    strategy: Any = None
    devices: Any = None
    attack: Any = None
    selection: Any = None
    public: Public = field(default_factory=Public)
    anonymization: Anonymization = field(default_factory=Anonymization)
    privacy: Privacy = field(default_factory=Privacy)
    secure_sum: SecureSum = field(default_factory=SecureSum)
    rounds: Rounds = field(default_factory=Rounds)
    evaluation: Evaluation = field(default_factory=Evaluation)
    engine: Engine = field(default_factory=Engine)
    storage: Storage = field(default_factory=Storage)

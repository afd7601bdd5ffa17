"""Legality of secure sums: what of an experiment can be done when the server sees only a sum."""

from collections.abc import Callable

from fedsim.config.schema import RunConfig, SecureSum
from fedsim.crypto import random_key
from fedsim.secagg import ckks
from fedsim.secagg.parameters import Parameters

__all__ = ["check", "check_population", "session_parameters"]

Refuse = Callable[..., None]

_SPREAD = 5.0  # standard deviations that a Poisson cohort may fall below what is expected


def session_parameters(
    secure: SecureSum, *, run: str, round: int, length: int, bits: int, content: bytes
) -> Parameters:
    """Return the parameters of a session of the secure sum that an experiment asks for."""
    return Parameters(
        run=run,
        round=round,
        length=length,
        bits=bits,
        graph="sparse" if secure.name == "secagg+" else "full",
        threshold=secure.threshold,
        adversaries=secure.adversaries,
        dropouts=secure.dropouts,
        semi_malicious=secure.semi_malicious,
        min_cohort=secure.min_cohort,
        profile=secure.profile,
        nonce=random_key(),
        content=content,
    )


def check(config: RunConfig, refuse: Refuse) -> None:
    """Refuse what needs to see single clients, and say the nearest thing that does not."""
    name = config.secure_sum.name
    if name == "plain":
        return
    if config.mode != "federated":
        accepted = f"'federated' with secure_sum.name = {name!r}: a baseline sums nothing"
        refuse("mode", config.mode, accepted, "Set secure_sum.name=plain for the baseline.")
    if getattr(config.strategy, "needs", "sum") == "updates":
        accepted = "a strategy that needs only the sum: a secure sum shows no single update"
        hint = "fedavg, fedavgm and fedadam do; or set secure_sum.name=plain."
        refuse("strategy.name", _name(config.strategy), accepted, hint)
    if config.engine.tier == "low-rank":
        accepted = "'auto', 'messages', 'resident' or 'vectorized': each update is rounded alone"
        refuse("engine.tier", config.engine.tier, accepted)
    if name == "ckks":
        _check_ckks(config, refuse)
    if every := config.evaluation.federated_every:
        accepted = "0 with a secure sum: metrics of a federated evaluation are those of one client"
        hint = "Set evaluation.federated_every=0; the server still tests the model centrally."
        refuse("evaluation.federated_every", every, accepted, hint)


def _check_ckks(config: RunConfig, refuse: Refuse) -> None:
    """Refuse what one key of all clients does not withstand."""
    secure = config.secure_sum
    if secure.adversaries:
        accepted = "0 with secure_sum.name = 'ckks': one client that colludes opens every update"
        hint = "Set secure_sum.adversaries=0 if none does; secagg and secagg+ withstand some."
        refuse("secure_sum.adversaries", secure.adversaries, accepted, hint)
    if secure.profile != "standard":
        refuse(
            "secure_sum.profile", secure.profile, "'standard' with CKKS: no FIPS standard has it"
        )


def check_population(config: RunConfig, clients: int, refuse: Refuse) -> None:
    """Refuse a cohort that is too small for its sum to hide anybody, or may turn out so."""
    secure = config.secure_sum
    if secure.name == "plain" or config.mode != "federated":
        return
    cohort = min(config.rounds.cohort or clients, clients)
    least, why = float(cohort), ""
    is_random = config.privacy.unit == "user" and config.privacy.sampling in (
        "truncated",
        "poisson",
    )
    if is_random and cohort < clients:
        least, why = cohort - _SPREAD * cohort**0.5, ", however few chance draws"
    if secure.name == "ckks" and cohort > ckks.MOST_CLIENTS:
        accepted = f"at most {ckks.MOST_CLIENTS} with secure_sum.name = 'ckks': more are not exact"
        refuse("rounds.cohort", cohort, accepted)
    if least < secure.min_cohort:
        accepted = f"a cohort of at least secure_sum.min_cohort = {secure.min_cohort}{why}"
        refuse("rounds.cohort", cohort, accepted)


def _name(part: object) -> str:
    return type(part).__name__.lower()

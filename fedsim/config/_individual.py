"""Legality of accounts of single clients in unit "user": what their theorem needs."""

from collections.abc import Callable

from fedsim.config.schema import RunConfig

__all__ = ["check"]


def check(config: RunConfig, refuse: Callable[..., None]) -> None:
    """Refuse what no client could be charged for by its own update."""
    privacy, own = config.privacy, "with privacy.client_epsilon"
    if privacy.client_epsilon is None or privacy.unit == "none":
        return
    if privacy.unit != "user":
        accepted = f"unset in unit {privacy.unit!r}, where every client has an account already"
        refuse("privacy.client_epsilon", privacy.client_epsilon, accepted, "privacy.epsilon is it.")
        return
    if privacy.noise_multiplier is None:
        accepted = f"a number {own}: how long a client lasts depends on its updates"
        refuse(
            "privacy.noise_multiplier", None, accepted, "Twice as much lasts four times as long."
        )
    if privacy.epsilon is not None and privacy.epsilon < privacy.client_epsilon:
        accepted = f"at least privacy.client_epsilon = {privacy.client_epsilon:g}, all of which "
        refuse("privacy.epsilon", privacy.epsilon, accepted + "the run takes of the data set's")
    if privacy.mechanism != "gaussian":
        accepted = f"'gaussian' {own}: independent noise, which the server adds"
        refuse("privacy.mechanism", privacy.mechanism, accepted)
    if privacy.clipping != "fixed":
        accepted = f"'fixed' {own}: a vote on the norm costs a client whatever its update is"
        refuse("privacy.clipping", privacy.clipping, accepted)
    if config.secure_sum.name != "plain":
        accepted = f"'plain' {own}: under a secure sum the server knows no client's norm"
        hint = "Or leave client_epsilon unset and give the data set a budget: privacy.epsilon."
        refuse("secure_sum.name", config.secure_sum.name, accepted, hint)
    if config.rounds.min_results > 1:
        accepted = f"1 {own}: who has budget left is private, and so is whether a round fails of it"
        refuse("rounds.min_results", config.rounds.min_results, accepted)

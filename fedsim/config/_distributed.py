"""Legality of noise that clients add themselves: what it can be, and what it needs."""

from collections.abc import Callable

from fedsim.config.schema import RunConfig
from fedsim.privacy.events import DISCRETE

__all__ = ["check"]


def check(config: RunConfig, refuse: Callable[..., None]) -> None:
    """Refuse what discrete noise of clients has no analysis for, or no use."""
    privacy = config.privacy
    if privacy.mechanism not in DISCRETE or privacy.unit != "user":
        return
    own = f"mechanism = {privacy.mechanism!r}"
    if config.secure_sum.name == "plain":
        accepted = f"'secagg', 'secagg+' or 'ideal' with {own}: a client's own part of the noise"
        hint = "does not hide it alone. Set secure_sum.name=secagg, or privacy.mechanism=gaussian."
        refuse("secure_sum.name", "plain", accepted, hint)
    if privacy.clipping != "fixed":
        accepted = f"'fixed' with {own}: votes on the norm have no noise of their own"
        refuse("privacy.clipping", privacy.clipping, accepted)
    if privacy.weight_cap is not None:
        accepted = f"unset with {own}: all clients weigh 1"
        refuse("privacy.weight_cap", privacy.weight_cap, accepted)
    if privacy.sampling == "poisson":
        accepted = f"'truncated', 'fixed' or 'cyclic' with {own}: the noise is that of a largest"
        refuse("privacy.sampling", "poisson", f"{accepted} cohort, and here there is none")
    if config.secure_sum.max_abs is not None:
        accepted = f"unset with {own}: privacy.clipping_norm bounds updates"
        refuse("secure_sum.max_abs", config.secure_sum.max_abs, accepted)

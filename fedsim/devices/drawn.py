"""Drawn: each client's device is drawn from named distributions, by the run's seed.

Without a trace at hand: FedScale (Lai et al., ICML 2022) and FLASH (Yang et al., WWW 2021) both
find the speeds of phones and their connections spread over an order of magnitude and more, with a
long tail, as a lognormal is. The defaults are of that shape and stand for no measured population.
"""

from dataclasses import dataclass

from fedsim import rng
from fedsim.devices._device import Device
from fedsim.devices._draws import Draw, Quantity, read_draws
from fedsim.devices._fleet import Fleet
from fedsim.devices._online import Renewals
from fedsim.errors import ConfigError, Problem

__all__ = ["Drawn"]

_BYTES_PER_MBIT = 125_000.0
_FIELDS = ("flops_per_s", "down_mbps", "up_mbps", "compute_watts", "down_watts", "up_watts")


@dataclass(frozen=True, slots=True)
class Drawn:
    """Draw each client's device; every setting is a number or a distribution, NAME:VALUE,VALUE.

    Distributions: constant:value, uniform:low,high, lognormal:median,sigma, exponential:mean,
    zipf:fastest,exponent (fastest / k, k by Zipf's law), pareto:least,shape, choice:value,...
    `flops_per_s`: what training reaches. `down_mbps`, `up_mbps`: megabits (10^6) a second.
    `..._watts`: power while computing, receiving, sending; `waiting_watts`: of a client that has
    answered, until its round ends. `online_s`, `offline_s`: how long a client is there, and away,
    in turn, drawn anew each time; unset: it is always there.
    """

    flops_per_s: float | str = "lognormal:1e10,0.8"
    down_mbps: float | str = "lognormal:20,0.8"
    up_mbps: float | str = "lognormal:6,0.8"
    compute_watts: float | str = 4.0
    down_watts: float | str = 1.0
    up_watts: float | str = 1.5
    waiting_watts: float = 0.0
    online_s: float | str | None = None
    offline_s: float | str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no distribution, with all problems at once."""
        if (self.online_s is None) != (self.offline_s is None):
            name = "online_s" if self.online_s is None else "offline_s"
            accepted = "set, or both unset: devices that are there and away in turn need both"
            raise ConfigError([Problem(f"devices.{name}", None, accepted)])
        if not self.waiting_watts >= 0:
            raise ConfigError([Problem("devices.waiting_watts", self.waiting_watts, "at least 0")])
        self._draws()

    def fleet(self, seed: int) -> Fleet:
        """Return the devices that a seed draws."""
        draws = self._draws()

        def device(client: int) -> Device:
            own = {name: draws[name].of(seed, name, client) for name in _FIELDS}
            return Device(
                own["flops_per_s"],
                own["down_mbps"] * _BYTES_PER_MBIT,
                own["up_mbps"] * _BYTES_PER_MBIT,
                own["compute_watts"],
                own["down_watts"],
                own["up_watts"],
                self.waiting_watts,
            )

        if self.online_s is None:
            return Fleet(device)
        return Fleet(device, lambda client: _turns(draws, seed, client))

    def _draws(self) -> dict[str, Draw]:
        names = [*_FIELDS, *(["online_s", "offline_s"] if self.online_s is not None else [])]
        given: list[tuple[str, Quantity]] = [(name, getattr(self, name)) for name in names]
        return read_draws(given)


def _turns(draws: dict[str, Draw], seed: int, client: int) -> Renewals:
    """Return when a client is there: second 0 is anywhere in its first turn."""
    stream = rng.stream(seed, "devices/availability", client=client)
    first = {name: draws[name].at(stream) for name in ("online_s", "offline_s")}
    whole = first["online_s"] + first["offline_s"]
    place = float(f"{stream.random() * whole:.6g}")
    is_online = place < first["online_s"]
    begun = place if is_online else place - first["online_s"]
    waiting = [first["online_s"], first["offline_s"]] if is_online else [first["offline_s"]]

    def next_of(name: str) -> float:
        return waiting.pop(0) if waiting else draws[name].at(stream)

    return Renewals(lambda: next_of("online_s"), lambda: next_of("offline_s"), is_online, begun)

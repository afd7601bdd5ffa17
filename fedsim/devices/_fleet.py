"""The devices of all clients, each made when it is first asked for."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fedsim.devices._device import Device
from fedsim.devices._online import ALWAYS, Availability
from fedsim.errors import RunFailedError

__all__ = ["Fleet"]

_LOOKS = 100_000  # at times when somebody comes, before it is said that nobody does


@dataclass(slots=True)
class Fleet:
    """A device for each client, and when it is there; `when` None: all of them, always.

    `sha256`: of the trace files that it is read from, empty without any.
    """

    what: Callable[[int], Device]
    when: Callable[[int], Availability] | None = None
    sha256: str = ""
    _devices: dict[int, Device] = field(default_factory=dict)
    _times: dict[int, Availability] = field(default_factory=dict)

    def device(self, client: int) -> Device:
        """Return a client's device."""
        if client not in self._devices:
            self._devices[client] = self.what(client)
        return self._devices[client]

    def availability(self, client: int) -> Availability:
        """Return when a client is there."""
        if self.when is None:
            return ALWAYS
        if client not in self._times:
            self._times[client] = self.when(client)
        return self._times[client]

    def online(self, clients: Iterable[int], now_s: float) -> list[int]:
        """Return who of some clients is there at a time, in their order."""
        if self.when is None:
            return list(clients)
        return [c for c in clients if self.availability(c).online_until(now_s) is not None]

    def wait_for(self, clients: Iterable[int], now_s: float, least: int) -> float:
        """Return the first time from `now_s` on at which `least` of some clients are there.

        Raises `RunFailedError` where that is never seen.
        """
        everyone = list(clients)
        for _ in range(_LOOKS):
            if len(self.online(everyone, now_s)) >= least:
                return now_s
            coming = [self.availability(c).next_online(now_s) for c in everyone]
            now_s = min((t for t in coming if t > now_s), default=float("inf"))
            if now_s == float("inf"):
                break
        raise RunFailedError(
            f"there are never {least} clients online at once (rounds.min_results): lower it, or "
            "take devices that are there for longer"
        )

"""FLASH: devices read from the state traces of Yang et al., WWW 2021.

"Characterizing impacts of heterogeneity in federated learning upon large-scale smartphone data".
`state_traces.json` has for each device its `model` and its `messages`, a line "time TAB state" for
each change of state. A device takes part while it is locked, on wifi and charging (Bonawitz et al.,
"Towards federated learning at scale", 2019), as that repository's code decides it; its trace
repeats after the last line. `speed_distri.json` has the means of measured connections, `down_u` and
`up_u`, in kilobytes (1024) a second; their spread over time is left out. The repository measured
training times for its own models alone: here a device computes at `flops_per_s`, or as `models`
says.
"""

import calendar
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge

from fedsim import rng
from fedsim.devices._device import Device
from fedsim.devices._draws import read_draws
from fedsim.devices._fleet import Fleet
from fedsim.devices._online import Periods
from fedsim.devices._traces import number_of, read_trace, sha256_of
from fedsim.errors import ConfigError, DataError, Problem

__all__ = ["Flash"]

_KILOBYTE = 1024.0
_FORMAT = "%Y-%m-%d %H:%M:%S"
#: state -> what it changes, to what
_CHANGES = {
    "battery_charged_on": ("charged", True),
    "battery_charged_off": ("charged", False),
    "wifi": ("wifi", True),
    **dict.fromkeys(("unknown", "2g", "3g", "4g", "5g"), ("wifi", False)),
    "screen_lock": ("locked", True),
    "screen_unlock": ("locked", False),
}


@dataclass(frozen=True, slots=True)
class Flash:
    """Read devices from FLASH's files: when they are there, and how fast they send.

    `states`: the file of state traces; client i has its i-th device, from the first again where
    there are more clients; second 0 is the earliest line of the file. `network`: the file of
    connections, one drawn for each client; unset: `down_mbps` and `up_mbps` are drawn, as
    `flops_per_s` is (see `drawn`). `models`: FLOP/s by a device's `model`, where it is known.
    """

    states: str = ""
    network: str | None = None
    flops_per_s: float | str = "lognormal:1e10,0.8"
    down_mbps: float | str = "lognormal:20,0.8"
    up_mbps: float | str = "lognormal:6,0.8"
    models: Mapping[str, float] = field(default_factory=dict)
    compute_watts: Annotated[float, Ge(0)] = 4.0
    down_watts: Annotated[float, Ge(0)] = 1.0
    up_watts: Annotated[float, Ge(0)] = 1.5
    waiting_watts: Annotated[float, Ge(0)] = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no distribution, and speeds that are none."""
        self._draws()
        if wrong := {name: speed for name, speed in self.models.items() if not speed > 0}:
            raise ConfigError([Problem("devices.models", wrong, "FLOP/s above 0 by model")])

    def fleet(self, seed: int) -> Fleet:
        """Read the files; raises `ConfigError` where none is named, `DataError` for other ones."""
        if not self.states:
            accepted = "set: the file of devices' states (FLASH's state_traces.json)"
            raise ConfigError([Problem("devices.states", self.states, accepted)])
        traces = list(read_trace(self.states).items())
        links = list(read_trace(self.network).items()) if self.network else []
        firsts = (next(_messages(self.states, key, own), None) for key, own in traces)
        origin = min((first[0] for first in firsts if first), default=0)
        draws = self._draws()

        def device(client: int) -> Device:
            _, own = traces[client % len(traces)]
            speed = self.models.get(str(own.get("model")))
            if speed is None:
                speed = draws["flops_per_s"].of(seed, "flops_per_s", client)
            down, up = (
                draws[name].of(seed, name, client) * 125_000 for name in ("down_mbps", "up_mbps")
            )
            if links:
                at = int(rng.stream(seed, "devices/network", client=client).integers(len(links)))
                path = str(self.network)
                down, up = (number_of(path, *links[at], name) for name in ("down_u", "up_u"))
                down, up = down * _KILOBYTE, up * _KILOBYTE
            watts = self.compute_watts, self.down_watts, self.up_watts, self.waiting_watts
            return Device(speed, down, up, *watts)

        def when(client: int) -> Periods:
            return _periods(self.states, *traces[client % len(traces)], origin)

        return Fleet(device, when, sha256_of(self.states, self.network))

    def _draws(self) -> Any:
        names = ("flops_per_s", "down_mbps", "up_mbps")
        return read_draws([(name, getattr(self, name)) for name in names])


def _periods(path: str, key: Any, own: Mapping[str, Any], origin: int) -> Periods:
    """Return when a device is there: idle, on wifi and charging."""
    state = {"charged": False, "wifi": False, "locked": False}
    periods: list[tuple[float, float]] = []
    since: int | None = None
    first = last = None
    for second, text in _messages(path, key, own):
        first, last = second if first is None else first, second
        name, value = _CHANGES.get(text, ("", False))
        if name:
            state[name] = value
        if all(state.values()):
            since = second if since is None else since
        elif since is not None:
            if second > since:
                periods.append((float(since - first), float(second - first)))
            since = None
    if first is None or last is None or last <= first:
        return Periods((), 1.0)
    return Periods(tuple(periods), float(last - first), float(origin - first))


def _messages(path: str, key: Any, own: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield the changes of state of a device: its second, and the state in small letters."""
    for line in str(own.get("messages", "")).splitlines():
        if not line.strip("\x00 \t"):
            continue
        when, _, state = line.strip("\x00 ").partition("\t")
        try:
            yield calendar.timegm(time.strptime(when.strip(), _FORMAT)), state.strip().lower()
        except ValueError as error:
            raise DataError(f"{path}, device {key!r}: {line!r} has no time and state") from error

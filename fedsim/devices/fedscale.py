"""FedScale: devices read from the traces of Lai et al., "FedScale", ICML 2022.

Two files of that benchmark (`client_device_capacity`, `client_behave_trace`), or others of their
format, pickled or as JSON. The first has for each device `computation`, milliseconds per example of
inference, and `communication`, kilobits (1024) a second; training takes three times as long, and
both directions share the bandwidth's number. The second has for each device the lists `active` and
`inactive` of seconds at which it comes and leaves, and `finish_time`, after which they repeat. As
there, client i has the i-th device of each file, from the first again where there are more clients.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from fedsim.devices._device import Device
from fedsim.devices._fleet import Fleet
from fedsim.devices._online import Periods
from fedsim.devices._traces import number_of, read_trace, sha256_of
from fedsim.errors import ConfigError, DataError, Problem

__all__ = ["FedScale"]

_TRAINING = 3.0  # the backward pass takes about twice as long as the forward one
_BYTES_PER_KBIT = 128.0


@dataclass(frozen=True, slots=True)
class FedScale:
    """Read devices from FedScale's files: how fast they are, and when they are there.

    `capacity`: the file of speeds; `availability`: that of when they are there; unset: always. The
    files have no power: `..._watts` are those of every device.
    """

    capacity: str = ""
    availability: str | None = None
    compute_watts: Annotated[float, Ge(0)] = 4.0
    down_watts: Annotated[float, Ge(0)] = 1.0
    up_watts: Annotated[float, Ge(0)] = 1.5
    waiting_watts: Annotated[float, Ge(0)] = 0.0

    def fleet(self, seed: int) -> Fleet:
        """Read the files; raises `ConfigError` where none is named, `DataError` for other ones."""
        if not self.capacity:
            accepted = "set: the file of devices' speeds (FedScale's client_device_capacity)"
            raise ConfigError([Problem("devices.capacity", self.capacity, accepted)])
        speeds = list(read_trace(self.capacity).items())

        def device(client: int) -> Device:
            key, own = speeds[client % len(speeds)]
            bandwidth = number_of(self.capacity, key, own, "communication") * _BYTES_PER_KBIT
            example_s = _TRAINING * number_of(self.capacity, key, own, "computation") / 1000
            watts = self.compute_watts, self.down_watts, self.up_watts, self.waiting_watts
            return Device(1.0, bandwidth, bandwidth, *watts, example_s=example_s)

        sha256 = sha256_of(self.capacity, self.availability)
        if not self.availability:
            return Fleet(device, sha256=sha256)
        path, times = self.availability, list(read_trace(self.availability).items())
        return Fleet(device, lambda client: _periods(path, *times[client % len(times)]), sha256)


def _periods(path: str, key: Any, own: Mapping[str, Any]) -> Periods:
    """Return when a device is there."""
    span = number_of(path, key, own, "finish_time")
    try:
        pairs = list(zip(map(float, own["active"]), map(float, own["inactive"]), strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}, device {key!r}: active and inactive are no lists of as many seconds"
        ) from error
    cut = sorted((begin, min(end, span)) for begin, end in pairs)
    return Periods(tuple((begin, end) for begin, end in cut if begin < end), span)

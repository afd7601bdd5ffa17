"""Devices of simulated clients: how fast they compute and send, when they are there, what it draws.

A part of `[devices]` (a file here) says where devices come from; its `fleet` gives each client one.
Nothing here looks at a real clock: the same seed or trace gives the same seconds on any machine.
"""

from fedsim.devices._device import Device, Spans, Work
from fedsim.devices._fleet import Fleet
from fedsim.devices._online import ALWAYS, Availability, Periods, Renewals

__all__ = ["ALWAYS", "Availability", "Device", "Fleet", "Periods", "Renewals", "Spans", "Work"]

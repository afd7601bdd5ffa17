"""What of a client's state outlives its sessions: how many there were, which sums it helped open.

A deployed node keeps this part on its disk, for a second sum of a round that a few clients tell
from the first is refused by it: also after a restart, and in another run of the same experiment.
The secrets of an open session are not in it, and are lost with the process that has them.
"""

from dataclasses import replace

from fedsim.secagg import wire
from fedsim.secagg._state import read_state

__all__ = ["joined", "lasting"]


def lasting(state: bytes, client: int) -> bytes:
    """Return the part of a state that is to be kept; raise `ValueError` for one of another client.

    >>> lasting(b"", 3) == lasting(lasting(b"", 3), 3)
    True
    """
    return wire.encode(replace(read_state(state, client), session=b""))


def joined(kept: bytes, state: bytes, client: int) -> bytes:
    """Return a state with what was kept, and the session that is open in `state`, if one is."""
    return wire.encode(replace(read_state(kept, client), session=read_state(state, client).session))

"""Imports what a worker of a simulation runs (`launch.OURS`); most of it is torch.

Ray has its workers import this while they start, before they have anything to do.
"""

from fedsim.environment import without_collector

with without_collector():
    import fedsim.clients._block
    import fedsim.clients.app
    import fedsim.engine.actor  # noqa: F401 - nothing here is used

"""Imports what a worker of a simulation runs (`launch.OURS`); most of it is torch.

Ray has its workers import this while they start, before they have anything to do. The collector
would look at all there is again and again meanwhile, which takes a tenth of the time.
"""

import gc

gc.disable()
try:
    import fedsim.clients._block
    import fedsim.clients.app
    import fedsim.engine.actor  # noqa: F401 - nothing here is used
finally:
    gc.enable()

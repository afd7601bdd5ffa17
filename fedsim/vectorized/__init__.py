"""Many clients trained at once: the same local training as `fedsim.training.fit`, stacked.

`stacked` gives every client of a block its own copy of the parameters, on a leading client axis.
`low_rank` does not even do that for dense layers. Both are held to the per-client method by tests.
"""

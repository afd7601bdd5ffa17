"""What a client does to its own update before anybody sees it: unit "local".

Every mechanism is a frozen dataclass with a `clipping_norm`, from which its sensitivity is derived,
`randomize(vectors, streams)` for the updates [clients, model] of a block, each by itself and with a
stream of its own, and `release()`, which is what accounting needs of it. Updates that are not
finite, of any size or zero are all treated like any other. Outputs have the updates as their mean,
where those are within the bound.
"""

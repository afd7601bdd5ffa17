"""Which clients a round asks (one file each, file name = key).

A selection has `draw(pool, memory)`, which returns the clients of a round, and where it depends on
what clients answered (`needs` "records" or "updates"), `learn(memory, learned)`, which returns what
to remember of a round: tensors by name, kept in the server's state. `fedsim.choosing` calls both.
"""

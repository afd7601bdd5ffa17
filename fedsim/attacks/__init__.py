"""Simulated adversaries (one file each, file name = key).

An attack has `fraction` or `clients`, which say who is malicious, and one or more of

- `poison(shard, meta, stream)`: the rows that a malicious client trains on;
- `send(vector, cohort, stream)`: what it sends in place of its update, before the transform;
- `craft(seen, memory, stream)`: what all malicious clients of a round send, given the updates of
  the others (`Seen`); `needs = "updates"`, for this takes every single one.

A strategy never learns who is malicious. `fedsim.adversaries` carries attacks out.
"""

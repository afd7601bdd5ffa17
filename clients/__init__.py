"""Local algorithms: how a client learns from its shard. One file each; `app.py` runs them."""

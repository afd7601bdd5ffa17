"""Strategies: what the server does with the sum of the updates. One file each."""

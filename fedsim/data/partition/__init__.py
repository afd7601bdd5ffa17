"""Partitioners: how a pooled data set is dealt out to clients. One file each."""

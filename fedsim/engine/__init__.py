"""Grids: who carries messages and runs clients. Nothing here knows of learning or privacy."""

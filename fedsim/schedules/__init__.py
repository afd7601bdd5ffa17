"""Schedules: how the client learning rate changes over rounds."""

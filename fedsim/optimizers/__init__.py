"""Client optimizers: torch's own, by name."""

"""private-strategy: a Flower app made for tests."""

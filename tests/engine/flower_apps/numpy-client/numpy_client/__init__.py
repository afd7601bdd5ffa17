"""numpy-client: a Flower app made for tests."""

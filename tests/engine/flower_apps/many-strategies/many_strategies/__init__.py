"""many-strategies: a Flower app made for tests."""

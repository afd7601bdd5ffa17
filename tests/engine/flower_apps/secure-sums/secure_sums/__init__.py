"""secure-sums: a Flower app made for tests."""

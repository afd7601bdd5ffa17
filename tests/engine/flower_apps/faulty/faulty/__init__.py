"""faulty: a Flower app made for tests."""

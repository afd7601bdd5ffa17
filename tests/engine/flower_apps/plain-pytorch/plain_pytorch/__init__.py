"""plain-pytorch: a Flower app made for tests."""

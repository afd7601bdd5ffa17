"""evaluate-only: a Flower app made for tests."""

"""client-state: a Flower app made for tests."""

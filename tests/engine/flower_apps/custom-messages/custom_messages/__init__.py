"""custom-messages: a Flower app made for tests."""

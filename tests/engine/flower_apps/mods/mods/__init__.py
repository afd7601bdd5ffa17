"""mods: a Flower app made for tests."""

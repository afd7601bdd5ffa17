"""A fedsim experiment as a Flower app."""

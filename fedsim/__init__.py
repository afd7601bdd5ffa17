"""fedsim: federated learning, simulated the way it will be deployed."""

__version__ = "0.1.0"

"""Fast, trustworthy training of Implicit Q-Learning."""

__version__ = "0.1.0"

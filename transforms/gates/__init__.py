"""What a staged release must pass before anybody can see it."""

from transforms.gates.gate import ADVICE, Gate
from transforms.gates.thresholds import Thresholds, read_thresholds

__all__ = ["ADVICE", "Gate", "Thresholds", "read_thresholds"]

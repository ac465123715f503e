"""What a staged release must pass before anybody can see it."""

from transforms.gates.gate import ADVICE, Gate, read_gate
from transforms.gates.thresholds import Thresholds, read_thresholds

__all__ = ["ADVICE", "Gate", "Thresholds", "read_gate", "read_thresholds"]

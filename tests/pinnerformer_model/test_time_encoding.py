"""Time as the tower sees it."""

import torch

from pinnerformer_model.time_encoding import TimeEncoder
from tests.pinnerformer_model.samples import NOW


def test_a_millisecond_is_seen_in_an_hour_period():
    """2026 in ms needs 41 bits, float32 has 24: angles must be reduced in float64 before the cast."""
    encoder = TimeEncoder((1000.0,))
    times = torch.tensor([NOW, NOW + 250])
    with torch.inference_mode():
        out = encoder(times)
    assert abs(float(out[1, 1] - out[0, 1])) > 0.9  # a quarter of a turn apart: sin 0 and sin 90 degrees
    assert encoder.half().frequency.dtype == torch.float64

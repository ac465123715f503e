"""Time2Vec with fixed periods and learned phases (paper, section 2)."""

import math

import torch
from torch import nn

HOUR_MS = 3_600_000
ABSOLUTE_PERIODS_MS = tuple(h * HOUR_MS for h in (0.25, 0.5, 0.75, 1, 2, 4, 8, 16, 24, 7 * 24, 28 * 24, 365 * 24))
RELATIVE_PERIODS_MS = tuple(1000 * (28 * 24 * 3600) ** (i / 31) for i in range(32))  # 1 second to 4 weeks, log-spaced


class TimeEncoder(nn.Module):
    """t -> cos(2 pi t / p_i + phi_i), sin(2 pi t / p_i + phi'_i) for every period p_i, and log(1 + t in seconds).

    t is an int64 of milliseconds. The fraction of the period is taken in float64 and only then rounded to float32: a
    float32 holds a unix time to 128 s, its fraction of a quarter of an hour to less than a millisecond.

    Args:
        periods_ms: The periods, in milliseconds; fixed.
    """

    frequency: torch.Tensor

    def __init__(self, periods_ms: tuple[float, ...]):
        super().__init__()
        frequency = torch.tensor([1.0 / period for period in periods_ms], dtype=torch.float64)
        self.register_buffer("frequency", frequency, persistent=False)
        self.cos_phase = nn.Parameter(torch.zeros(len(periods_ms)))
        self.sin_phase = nn.Parameter(torch.zeros(len(periods_ms)))

    @property
    def width(self) -> int:
        return 2 * len(self.cos_phase) + 1

    def forward(self, time_ms: torch.Tensor) -> torch.Tensor:
        """int64 [...], >= 0 -> float32 [..., 2 periods + 1]."""
        turns = time_ms.double().unsqueeze(-1) * self.frequency
        angle = (2 * math.pi * (turns - turns.floor())).float()
        log_t = torch.log1p(time_ms.double() / 1000).float().unsqueeze(-1)
        return torch.cat([torch.cos(angle + self.cos_phase), torch.sin(angle + self.sin_phase), log_t], dim=-1)

    def _apply(self, fn, recurse=True):
        # module.float() or .half() must not take the precision that this module is there for.
        frequency = self.frequency
        super()._apply(fn, recurse)
        self.frequency = frequency.to(self.cos_phase.device)
        return self

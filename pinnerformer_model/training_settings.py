"""Everything beside model and data that affects the result of training."""

import dataclasses
import math

from pinnerformer_model.loss import check_temperature
from pinnerformer_model.negatives import Negatives
from pinnerformer_model.objectives import Objective


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Everything beside model and data that affects the result of training.

    Attributes:
        objective: What predicts what.
        negatives: What a positive competes with.
        log_q: Whether the softmax is corrected for how pins come into the pool.
        positive_q: `pool`: Q of a label is that of any pin of the pool; `user`: given that its user is in the batch.
        exact_counts: One counter per pin in place of the count-min sketch.
        sketch_width: Counters in a row of the sketch; two rows.
        steps: Length of training; the learning rate ends at 0 there.
        warmup_steps: The learning rate rises over these.
        learning_rate: The highest; AdamW.
        weight_decay: Of matrices; biases, norms, tables, phases and the temperature have none.
        clip_norm: Gradients are scaled down to this norm.
        users_per_step: Of all ranks together.
        windows_per_user: Windows drawn per user.
        repeat_weight: Of a pair whose pin the user had engaged with by its position, beside 1 of one that is new.
        window_share: Of all windows there are, how many may be drawn; see `Sampler`.
        token_budget: Tokens that go through the tower at once, as many as a cache holds.
        precision: `float32`, or `bfloat16` autocast in the towers; the loss is float32 always.
        temperature: Where it starts.
        dropout: Share of what the user tower's blocks add that is left out, at random, in training.
        seed: Of every draw; the initial weights come with the model.
    """

    objective: Objective = Objective()
    negatives: Negatives = Negatives()
    log_q: bool = True
    positive_q: str = "pool"
    exact_counts: bool = False
    sketch_width: int = 1 << 20
    steps: int = 2000
    warmup_steps: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    users_per_step: int = 128
    windows_per_user: int = 1
    repeat_weight: float = 1.0
    window_share: float = 1.0
    token_budget: int = 2048
    precision: str = "float32"
    temperature: float = 0.05
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self):
        if self.positive_q not in ("pool", "user"):
            raise ValueError(f"positive_q must be pool or user, got {self.positive_q!r}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be float32 or bfloat16, got {self.precision!r}")
        if not 0 < self.window_share <= 1:
            raise ValueError(f"window_share must be a share above 0, at most 1, got {self.window_share}")
        if not 0 <= self.repeat_weight <= 1:
            raise ValueError(f"repeat_weight must be a share, 0 to 1, got {self.repeat_weight}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be a share below 1, got {self.dropout}")
        check_temperature(self.temperature)

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0: a linear rise, then half a cosine down to 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

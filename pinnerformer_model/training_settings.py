"""Everything beside model and data that affects the result of training; no torch, so that flags are read without it."""

import dataclasses
import math

from pinnerformer_model.days import DAY_MS

OBJECTIVES = ("next_action", "sasrec", "all_action", "dense_all_action")
MODES = ("random", "in_batch", "mixed")
LEAST_TEMPERATURE = 0.01


@dataclasses.dataclass(frozen=True)
class Objective:
    """One of the paper's objectives.

    Attributes:
        name: One of `OBJECTIVES`.
        days: K, of the all-action objectives.
        positions: Of a window, drawn by `dense_all_action`.
        labels: Of a window, drawn by `all_action`.
        newest_weight: The share of its user's weight that the newest position gets, the others share the rest: 0.5 is
            as much as all others together (paper, section 5, of SASRec). `dense_all_action` then draws it always.
            None: the newest weighs what any other does.
        full_windows: Events whose K days pass the end of training have no label: theirs were cut off.
        label_days: Labels are of so many days before the end of training only: item vectors that know what a pin is
            engaged with lately know it of that end, and of older labels say what no longer holds. None: of all days.
    """

    name: str = "dense_all_action"
    days: float = 28.0
    positions: int = 32
    labels: int = 32
    newest_weight: float | None = None
    full_windows: bool = False
    label_days: float | None = None

    def __post_init__(self):
        if self.name not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {self.name!r}")
        if not self.days > 0 or self.positions < 1 or self.labels < 1:
            raise ValueError("days, positions and labels must be positive")
        if self.label_days is not None and not self.label_days > 0:
            raise ValueError(f"label_days must be positive, got {self.label_days}")
        if self.newest_weight is not None:
            if not 0 < self.newest_weight < 1:
                raise ValueError(f"newest_weight must be a share between 0 and 1, got {self.newest_weight}")
            if self.name in ("next_action", "all_action"):
                raise ValueError(f"newest_weight: the newest position is the only one of {self.name}; leave it out")
        if self.full_windows and self.horizon_ms is None:
            raise ValueError(f"full_windows is of the objectives with days; {self.name} asks for the next positive")

    @property
    def horizon_ms(self) -> int | None:
        """How far a label may lie ahead; None: the next positive, however far."""
        return int(self.days * DAY_MS) if self.name.endswith("all_action") else None


@dataclasses.dataclass(frozen=True)
class Negatives:
    """Which pins a positive competes with.

    Attributes:
        mode: `in_batch`: the other users' labels of the step; `random`: pins drawn uniformly from the corpus; `mixed`:
            both in one pool, under one softmax.
        random: Pins drawn, no pin twice.
        in_batch_limit: Labels taken into the pool at most; more are drawn from.
    """

    mode: str = "mixed"
    random: int = 8192
    in_batch_limit: int = 5000

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"negatives must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.random < 1 or self.in_batch_limit < 1:
            raise ValueError("the numbers of negatives must be positive")


@dataclasses.dataclass(frozen=True)
class StartSettings:
    """How a fresh model weighs vectors; chosen on the users who choose, where there are any.

    Attributes:
        ridge: lambda over the mean strength of the directions behind the strongest.
        prior: beta, the weight of what everybody did lately; 0: nothing of it.
        prior_days: "Lately": the days before the end of training.
        mean_scale: Of the mean of the tokens, beside the newest one, which drowns it at 1, and at 3 where M is large.
    """

    ridge: float = 1.0
    prior: float = 0.0
    prior_days: int = 7
    mean_scale: float = 30.0

    def __post_init__(self):
        if not self.ridge > 0 or self.prior < 0 or self.prior_days < 1 or not self.mean_scale > 0:
            raise ValueError("ridge, prior_days and mean_scale must be positive, prior not negative")

    def describe(self) -> str:
        """For a person."""
        lately = f", {self.prior:g} times everybody's last {self.prior_days} days" if self.prior else ""
        return f"ridge {self.ridge:g}{lately}"


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When the loop looks up from its steps.

    Attributes:
        evaluate_every: Steps between evaluations; there is one after the last step too.
        patience: Evaluations without a better recall after which training ends.
        save_every: Steps between saved states.
    """

    evaluate_every: int
    patience: int
    save_every: int

    def __post_init__(self):
        if min(self.evaluate_every, self.patience, self.save_every) < 1:
            raise ValueError("evaluate_every, patience and save_every must be positive")


def check_temperature(initial: float) -> float:
    """Returns a temperature if training can start from it.

    Raises:
        ValueError: it is not above the floor, or absurd.
    """
    if not LEAST_TEMPERATURE < initial <= 100:
        raise ValueError(f"the temperature must start above {LEAST_TEMPERATURE}, and not above 100, got {initial}")
    return initial


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

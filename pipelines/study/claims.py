"""The paper's tables (arXiv 2205.04507), and what each row of them claims."""

import dataclasses

from pipelines.study.grid import BASE, UNTRAINED


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables.

    Attributes:
        title: Its heading.
        columns: Of its figures.
        rows: (label, cell, the paper's figures); `cell@frequency` is a cell at an inference frequency.
        ours: (label, cell) of rows that the paper does not have.
        note: What must be known to read it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[float | None, ...]], ...]
    ours: tuple[tuple[str, str], ...] = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """That a cell is `higher` or `lower` than its reference, or `as good`.

    `loses less`: that from realtime to daily a smaller share of the cell's recall is lost than of the reference's.
    """

    table: str
    text: str
    cell: str
    says: str
    reference: str


# Rows that every table has: a model is read beside its start and beside what costs next to nothing.
SIMPLE = (
    ("(ours) untrained, as the base begins", UNTRAINED),
    ("(ours) whitened mean of last vectors", "whitened_mean"),
    ("(ours) own counts, then popularity", "own_counts"),
    ("(ours) popularity", "popularity"),
    ("(ours) item-item cosine", "item_cosine"),
    ("(ours) EASE", "ease"),
    ("(ours) ALS, folded in", "als"),
    ("(ours) PinnerSage as served", "pinnersage_served"),
    ("(ours) PinnerSage, oracle of 5 clusters", "pinnersage_5"),
    ("(ours) who knows the generator (ceiling)", "oracle"),
)

PAPER = {
    "pinnersage": PaperTable(
        "PinnerSage and PinnerFormer",
        ("R@10", "entropy@50", "P90@10"),
        (
            ("PinnerSage, oracle of 5 clusters", "pinnersage_5", (0.026, 1.69, 0.130)),
            ("PinnerSage, oracle of 20 clusters", "pinnersage_20", (0.046, 2.10, 0.133)),
            ("PinnerFormer", BASE, (0.229, 1.97, 0.042)),
        ),
    ),
    "frequency": PaperTable(
        "Inference frequency",
        ("R@10",),
        (
            ("SASRec, once", "sasrec@once", (0.198,)),
            ("SASRec, daily", "sasrec@daily", (0.216,)),
            ("SASRec, realtime", "sasrec@realtime", (0.251,)),
            ("dense all action, once", f"{BASE}@once", (0.229,)),
            ("dense all action, daily", f"{BASE}@daily", (0.243,)),
            ("dense all action, realtime", f"{BASE}@realtime", (0.264,)),
        ),
        (("(ours) untrained, daily", f"{UNTRAINED}@daily"), ("(ours) untrained, realtime", f"{UNTRAINED}@realtime")),
    ),
    "objectives": PaperTable(
        "Training objectives",
        ("R@10", "P90@10"),
        (
            ("next action", "next_action", (0.186, 0.050)),
            ("SASRec", "sasrec", (0.198, 0.048)),
            ("all action, 28 days", "all_action_28", (0.224, 0.028)),
            ("dense all action, 14 days", "dense_all_action_14", (0.223, 0.043)),
            ("dense all action, 28 days", BASE, (0.229, 0.042)),
        ),
        (
            ("(ours) all action, 28 days, for the CPU time of dense", "all_action_28_cpu"),
            ("(ours) with shuffled labels", "shuffled_labels"),
        ),
        "Every cell draws as many (position, label) pairs a step, for as many steps; each objective has its own "
        "learning rate.",
    ),
    "negatives": PaperTable(
        "Negatives and the log Q correction",
        ("R@10", "P90@10"),
        (
            ("random, without log Q", "random", (0.136, 0.002)),
            ("random, with log Q", "random", (0.139, 0.001)),
            ("in-batch, without log Q", "in_batch_without_logq", (0.071, 0.163)),
            ("in-batch, with log Q", "in_batch", (0.167, 0.119)),
            ("mixed, without log Q", "mixed_without_logq", (0.138, 0.083)),
            ("mixed, with log Q", BASE, (0.229, 0.042)),
        ),
        note="Of random ones alone log Q is a constant, which a softmax does not see: both rows are one model.",
    ),
    "features": PaperTable(
        "One feature left out",
        ("R@10",),
        (
            ("all features", BASE, (0.229,)),
            ("without PinSage", "without_pinsage", (0.142,)),
            ("without time", "without_time", (0.210,)),
            ("without surface", "without_surface", (0.224,)),
            ("without action type", "without_action", (0.226,)),
            ("without duration", "without_duration", (0.226,)),
            ("without position", "without_position", (0.228,)),
        ),
    ),
    "sizes": PaperTable(
        "Sequence length and embedding size",
        (),
        (
            ("M 4", "length_4", ()),
            ("M 8", "length_8", ()),
            ("M 16", "length_16", ()),
            ("the base", BASE, ()),
            ("M 64", "length_64", ()),
            ("d 8", "dim_8", ()),
            ("d 16", "dim_16", ()),
            ("d 32", "dim_32", ()),
            ("d 64", "dim_64", ()),
            ("d 128", "dim_128", ()),
        ),
    ),
}

CLAIMS = (
    Claim("pinnersage", "PinnerFormer's one vector beats the oracle of 5 clusters", BASE, "higher", "pinnersage_5"),
    Claim("pinnersage", "PinnerFormer's one vector beats the oracle of 20 clusters", BASE, "higher", "pinnersage_20"),
    Claim("pinnersage", "More clusters help PinnerSage's oracle", "pinnersage_20", "higher", "pinnersage_5"),
    Claim("pinnersage", "(ours) Training adds to the start", BASE, "higher", UNTRAINED),
    Claim("pinnersage", "(ours) PinnerFormer beats PinnerSage as served", BASE, "higher", "pinnersage_served"),
    Claim("pinnersage", "(ours) PinnerFormer beats popularity", BASE, "higher", "popularity"),
    Claim("pinnersage", "(ours) PinnerFormer beats own counts", BASE, "higher", "own_counts"),
    Claim("pinnersage", "(ours) PinnerFormer beats the whitened mean of last vectors", BASE, "higher", "whitened_mean"),
    Claim("pinnersage", "(ours) PinnerFormer beats item-item cosine", BASE, "higher", "item_cosine"),
    Claim("pinnersage", "(ours) PinnerFormer beats EASE", BASE, "higher", "ease"),
    Claim("pinnersage", "(ours) PinnerFormer beats ALS, folded in", BASE, "higher", "als"),
    Claim("frequency", "SASRec: daily beats once", "sasrec@daily", "higher", "sasrec@once"),
    Claim("frequency", "SASRec: realtime beats daily", "sasrec@realtime", "higher", "sasrec@daily"),
    Claim("frequency", "Dense all action: daily beats once", f"{BASE}@daily", "higher", f"{BASE}@once"),
    Claim("frequency", "Dense all action: realtime beats daily", f"{BASE}@realtime", "higher", f"{BASE}@daily"),
    Claim("frequency", "From realtime to daily, dense all action loses a smaller share", BASE, "loses less", "sasrec"),
    Claim("frequency", "Dense all action beats SASRec, once", f"{BASE}@once", "higher", "sasrec@once"),
    Claim("frequency", "Dense all action beats SASRec, daily", f"{BASE}@daily", "higher", "sasrec@daily"),
    Claim("frequency", "Dense all action beats SASRec, realtime", f"{BASE}@realtime", "higher", "sasrec@realtime"),
    Claim("objectives", "SASRec beats next action", "sasrec", "higher", "next_action"),
    Claim("objectives", "All action beats SASRec", "all_action_28", "higher", "sasrec"),
    Claim("objectives", "Dense all action beats next action", BASE, "higher", "next_action"),
    Claim("objectives", "Dense all action beats SASRec", BASE, "higher", "sasrec"),
    Claim("objectives", "Dense all action beats all action, of as many labels", BASE, "higher", "all_action_28"),
    Claim(
        "objectives", "(ours) Dense all action beats all action, of as much CPU", BASE, "higher", "all_action_28_cpu"
    ),
    Claim("objectives", "28 days beat 14 days", BASE, "higher", "dense_all_action_14"),
    Claim("objectives", "(ours) Shuffled labels are worse", "shuffled_labels", "lower", BASE),
    Claim("negatives", "In-batch negatives: log Q helps", "in_batch", "higher", "in_batch_without_logq"),
    Claim("negatives", "Mixed negatives: log Q helps", BASE, "higher", "mixed_without_logq"),
    Claim("negatives", "Mixed negatives with log Q beat random ones", BASE, "higher", "random"),
    Claim("negatives", "Mixed negatives with log Q beat in-batch ones", BASE, "higher", "in_batch"),
    Claim("features", "PinSage matters most: without it recall is lower", "without_pinsage", "lower", BASE),
    Claim("features", "Without time recall is lower", "without_time", "lower", BASE),
    Claim("features", "Without surface it is as good", "without_surface", "as good", BASE),
    Claim("features", "Without action type it is as good", "without_action", "as good", BASE),
    Claim("features", "Without duration it is as good", "without_duration", "as good", BASE),
    Claim("features", "Without position it is as good", "without_position", "as good", BASE),
    Claim("sizes", "Longer sequences help: 8 beats 4", "length_8", "higher", "length_4"),
    Claim("sizes", "16 beats 8", "length_16", "higher", "length_8"),
    Claim("sizes", "32 (the base) beats 16", BASE, "higher", "length_16"),
    Claim("sizes", "Past 32 there is less: 64 is as good", "length_64", "as good", BASE),
    Claim("sizes", "Small vectors lose: d 8 is lower than the base", "dim_8", "lower", BASE),
    Claim("sizes", "d 16 is lower than the base", "dim_16", "lower", BASE),
    Claim("sizes", "d 32 is lower than the base", "dim_32", "lower", BASE),
    Claim("sizes", "d 64 is lower than the base", "dim_64", "lower", BASE),
    Claim("sizes", "d 128 is as good as the base", "dim_128", "as good", BASE),
)

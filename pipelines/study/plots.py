"""One picture of a study: each table's figures relative to the served configuration, the paper's beside ours."""

import statistics

from pipelines.study.claims import PAPER
from pipelines.study.grid import BASE, UNTRAINED
from pipelines.study.results import Study

PAPER_COLOUR, OUR_COLOUR, START_COLOUR, DIM_COLOUR = "#b0b7c3", "#1f6feb", "#d1242f", "#1a7f37"


def draw(study: Study, path: str) -> None:
    """Writes a PNG of six panels."""
    import matplotlib

    matplotlib.use("Agg")  # before pyplot: there may be no display
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(15, 8.5), constrained_layout=True)
    for name, axis in zip(("objectives", "negatives", "features", "frequency"), axes.flat, strict=False):
        _bars(study, name, axis)
    _lines(study, axes.flat[4])
    _diversity(study, axes.flat[5])
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (PAPER_COLOUR, OUR_COLOUR, START_COLOUR)]
    names = ["paper", "ours", "ours before training"]
    figure.legend(handles, names, fontsize=9, loc="upper right", ncols=3, frameon=False)
    judged = "pins new to the user" if study.figure == "recall_new" else "all positives"
    title = f"{study.facts['title']}: recall@10 of {judged}; bars with their standard error over users"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)  # the legend has the right
    figure.savefig(path, dpi=90, format="png", metadata={"Software": None})
    plt.close(figure)


def _bars(study: Study, name: str, axis) -> None:
    content = PAPER[name]
    base = study.values(BASE, study.figure)
    rows = [row for row in content.rows if study.values(row[1], study.figure)]
    theirs_base = next(row[2][0] for row in content.rows if row[1] in (BASE, f"{BASE}@once")) or 1.0
    level = statistics.fmean(base) if base else 1.0
    level = level or 1.0
    places = range(len(rows))
    ours = [study.values(row[1], study.figure) for row in rows]
    axis.barh([p + 0.2 for p in places], [(row[2][0] or 0) / theirs_base for row in rows], 0.36, color=PAPER_COLOUR)
    found = [study.level(row[1], study.figure) for row in rows]
    spread = [one[1] / level if one else 0 for one in found]
    mean = [statistics.fmean(v) / level for v in ours]
    axis.barh([p - 0.2 for p in places], mean, 0.36, xerr=spread, color=OUR_COLOUR, ecolor="#0b2a5b", capsize=2)
    for place, (_, cell, _) in zip(places, rows, strict=True):
        start = study.start(cell)
        if start and (untrained := study.values(start, study.figure)):
            x = statistics.fmean(untrained) / level
            axis.plot([x, x], [place - 0.38, place - 0.02], color=START_COLOUR, linewidth=2)
    axis.set_yticks(list(places), [row[0] for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.axvline(1, color="black", linewidth=0.6)
    axis.set_title(content.title, fontsize=10)
    axis.set_xlabel("relative to dense all action, mixed, with log Q", fontsize=8)


def _lines(study: Study, axis) -> None:
    from matplotlib.ticker import ScalarFormatter

    size = study.facts["size"]
    for label, stem, base, tried, marker in (
        ("sequence length M", "length", size["max_sequence_length"], size["lengths"], "o-"),
        ("embedding size d", "dim", size["embedding_dim"], size["dims"], "s--"),
    ):
        names = {n: BASE if n == base else f"{stem}_{n}" for n in tried}
        colour = {"length": OUR_COLOUR, "dim": DIM_COLOUR}[stem]
        for what, cells, style in (
            ("", names, {"fmt": marker, "capsize": 2}),
            (", untrained", {n: study.start(cell) for n, cell in names.items()}, {"fmt": ":", "alpha": 0.6}),
        ):
            found = [(n, study.level(cell, study.figure)) for n, cell in cells.items() if cell]
            points = [(n, *one) for n, one in found if one]
            if points:
                axis.errorbar(*zip(*points, strict=True), label=label + what, color=colour, **style)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.set_ylim(bottom=0)
    axis.set_title("Sequence length and embedding size", fontsize=10)
    axis.set_ylabel("recall@10", fontsize=8)
    axis.legend(fontsize=8)


DIVERSITY = (  # cell, its name in the picture, its mark
    (BASE, "PinnerFormer", "*"),
    (UNTRAINED, "PinnerFormer, untrained", "+"),
    ("oracle", "who knows the generator", "P"),
    ("pinnersage_20", "PinnerSage, oracle of 20", "s"),
    ("pinnersage_5", "PinnerSage, oracle of 5", "D"),
    ("whitened_mean", "whitened mean of last vectors", "o"),
    ("pinnersage_served", "PinnerSage as served", "d"),
    ("ease", "EASE", "p"),
    ("own_counts", "own counts", "h"),
    ("popularity", "popularity", "X"),
    ("random", "random negatives", "^"),
    ("in_batch", "in-batch negatives", "v"),
    ("in_batch_without_logq", "in-batch, without log Q", "<"),
    ("mixed_without_logq", "mixed, without log Q", ">"),
)


def _diversity(study: Study, axis) -> None:
    for cell, name, mark in DIVERSITY:
        recall, coverage = study.values(cell, study.figure), study.values(cell, "coverage")
        if recall and coverage:
            axis.plot(statistics.fmean(recall), statistics.fmean(coverage), mark, markersize=8, alpha=0.8, label=name)
    axis.set_yscale("log")
    axis.set_xlim(left=0)
    axis.margins(x=0.1, y=0.2)
    axis.set_title("Recall and diversity", fontsize=10)
    axis.set_xlabel("recall@10", fontsize=8)
    axis.set_ylabel("P90 coverage@10", fontsize=8)
    axis.legend(fontsize=6, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)

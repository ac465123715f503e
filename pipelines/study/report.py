"""The page of a study: the paper's tables beside ours, and what can be said of each row."""

import os
import statistics
import textwrap

from pipelines.study.claims import CLAIMS, PAPER, Claim
from pipelines.study.plots import draw
from pipelines.study.results import Study, judge
from stores.files import replace_atomically

WIDTH = 110  # columns of prose, as of all our pages


def sentence(study: Study, claim: Claim) -> str:
    """One sentence on a claim: the verdict and the numbers it rests on."""
    said, found = judge(study, claim)
    if found is None:
        return f"{claim.text}: {said}."
    relative = f", {100 * found.mean / found.reference:+.0f} %" if found.reference else ""
    return f"{claim.text}: **{said}** ({found.mean:+.4f} ± {found.error:.4f}{relative})."


def summary(study: Study) -> str:
    """How many of the paper's claims ended how; ours, marked so, are not counted."""
    ends = [judge(study, claim)[0] for claim in CLAIMS if not claim.text.startswith("(ours)")]
    counts = {end: ends.count(end) for end in ("holds", "does not hold", "cannot be told at this size")}
    shuffled = next(claim for claim in CLAIMS if claim.cell == "shuffled_labels")
    learned, found = judge(study, shuffled)
    caution = ""
    if found is not None and learned != "holds":
        caution = (
            " Models trained on shuffled labels are not measurably worse here: what these models learned is little "
            "more than popularity, and rows that compare them say little; train longer."
        )
    return (
        f"Of {sum(counts.values())} claims of the paper {counts['holds']} hold, {counts['does not hold']} do not, and "
        f"{counts['cannot be told at this size']} cannot be told at this size.{caution}"
    )


def shown(values: list[float], digits: int = 4) -> str:
    """Mean and spread over the seeds."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table(study: Study, rows: tuple[tuple[str, str, tuple[float | None, ...]], ...], columns: tuple[str, ...]) -> str:
    """A Markdown table: the paper's columns, then ours."""
    ours = ("R@10", "R@10 new", "entropy@50", "P90@10")
    names = {"R@10": "recall", "R@10 new": "recall_new", "entropy@50": "entropy", "P90@10": "coverage"}
    kept = [name for name in ours if any(study.values(cell, names[name]) for _, cell, _ in rows)]
    lines = [
        "| | " + " | ".join([*(f"paper {c}" for c in columns), *(f"our {c}" for c in kept)]) + " |",
        "|---" * (1 + len(columns) + len(kept)) + "|",
    ]
    for label, cell, paper in rows:
        theirs = ["-" if value is None else f"{value:.3f}" for value in paper]
        mine = [shown(study.values(cell, names[c]), 2 if c == "entropy@50" else 4) for c in kept]
        lines.append(f"| {label} | " + " | ".join([*theirs, *mine]) + " |")
    return "\n".join(lines)


def describe(study: Study) -> str:
    """What the figures of a data set are of."""
    facts, base, size = study.facts, study.baselines, study.facts["size"]
    figures = base["figures"]["popularity"]
    seeds = [len(results) for name, results in study.cells.items() if name not in base["figures"]]
    most = f"{max(seeds)} seed{'s' if max(seeds) > 1 else ''}"
    complete = most if min(seeds) == max(seeds) else f"{min(seeds)} to {most}"
    if sum(seeds) < len(facts["cells"]):
        complete += f" per cell, {sum(seeds)} of {len(facts['cells'])} models: time ran out"
    else:
        complete += " per cell"
    chosen = base["chosen"]
    days = f"the last {chosen['popularity_days']} days" if chosen["popularity_days"] else "all time"
    judged = "pins new to the user" if study.figure == "recall_new" else "all positives"
    cpu = sum(r["cpu_s"]["all"] for results in study.cells.values() for r in results if "cpu_s" in r)
    return "\n".join(
        [
            f"- {base['training_users']:,} training users with {base['training_events']:,} events before the cut; "
            f"figures of {figures['users']:,} other users and their {figures['positives']:,} positives of the next "
            f"{base['identity']['days']} days, {figures['positives_new']:,} of them new to the user; "
            f"corpus {base['corpus']:,} pins; topics: {base['topics']}.",
            f"- Models: H {size['hidden_size']}, {size['num_layers']} layer, M {size['max_sequence_length']}, "
            f"d {size['embedding_dim']}; {size['steps']} training steps of {size['users_per_step']} users, "
            f"{size['positions']} positions per user, {size['random_negatives']} random negatives; {complete}; "
            f"{cpu / 60:.0f} minutes of one core in all.",
            f"- Chosen on the other half of the evaluation users: learning rate {facts['learning_rate']:g} (of "
            f"{', '.join(facts['learning_rates'])}); popularity of {days}; mean of the last {chosen['mean_window']}; "
            f"PinnerSage's threshold {chosen['threshold']:g}. Rows are judged by the recall of {judged}.",
        ]
    )


RULE = """\
How a row is judged. A difference between two cells is paired by seed and by user. Its standard error is that of the
mean over the seeds (not known from one seed, and left out then) and that of the users drawn, added in squares.
"Higher" holds if the difference is more than two standard errors above 0, does not hold if it is more than two below,
and cannot be told at this size in between; "lower" likewise; "as good" holds if the difference with two standard errors
either way lies within 5 % of the reference, does not hold if it lies outside altogether. No row was judged by hand.
After ±: in tables the standard deviation over seeds, in sentences the standard error."""


def wrap(part: str) -> str:
    """A part of the page in lines of at most `WIDTH` columns; headings, tables and pictures stay in one line each.

    A number and its % are not parted.
    """
    if part.startswith(("#", "|", "!")):
        return part
    lines = part.splitlines() if part.startswith("- ") else [" ".join(part.split())]
    return "\n".join(
        textwrap.fill(
            line.replace(" %", "\0%"),
            WIDTH,
            subsequent_indent="  " * line.startswith("- "),
            break_long_words=False,
            break_on_hyphens=False,
        ).replace("\0", " ")
        for line in lines
    )


def write_page(studies: list[Study], path: str) -> None:
    """Writes the Markdown page of some studies, and their plots beside it."""
    parts = [
        "# Which of the paper's findings hold",
        "Written by `pinnerformer study` (`make study` makes it again); tables and sentences are of its result files. "
        "The paper's models have 46 M parameters and learn from 500 M users; these are small and train for seconds or "
        "minutes, so levels do not compare, only what beats what.",
        RULE,
    ]
    for number, study in enumerate(studies):
        parts += [f"## {study.facts['title']}", describe(study), summary(study)]
        stem = os.path.splitext(os.path.basename(path))[0]
        plot = f"{stem}-{number + 1}.png"
        with replace_atomically(os.path.join(os.path.dirname(os.path.abspath(path)), plot)) as temporary:
            draw(study, temporary)
        parts.append(f"![what beats what, relative to the served configuration]({plot})")
        for name, content in PAPER.items():
            rows = tuple(row for row in content.rows if study.values(row[1], "recall"))
            extra = tuple(row for row in content.ours if study.values(row[1], "recall"))
            claims = [claim for claim in CLAIMS if claim.table == name]
            if not rows:
                continue
            blank = tuple((label, cell, (None,) * len(content.columns)) for label, cell in extra)
            parts += [f"### {content.title}", table(study, rows + blank, content.columns)]
            parts.append(
                "\n".join(f"- {sentence(study, claim)}" for claim in claims if study.values(claim.cell, "recall"))
            )
    with replace_atomically(path) as temporary, open(temporary, "w") as file:
        file.write("\n\n".join(wrap(part) for part in parts if part) + "\n")

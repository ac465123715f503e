"""The page of a study: the paper's tables beside ours, and what can be said of each row."""

import os
import statistics

from pipelines.study.baselines import NEED_AN_ORACLE, what_can_be_told
from pipelines.study.claims import CLAIMS, PAPER, SIMPLE, Claim, PaperTable
from pipelines.study.grid import BASE
from pipelines.study.plots import draw
from pipelines.study.prose import listed, wrap
from pipelines.study.results import FIGURES, START_ALONE, Difference, Study, difference, judge
from stores.files import replace_atomically

NAMES = {"recall_new": "new", "recall": "all"}
KEPT = ("<!-- begin: made by benchmarks.foresight -->", "<!-- end -->")
ENDS = ("holds", "does not hold", "cannot be told at this size", START_ALONE)


def shown(found: Difference) -> str:
    """A difference in a sentence."""
    relative = f", {100 * found.mean / found.reference:+.0f} %" if found.reference else ""
    return f"{found.mean:+.4f} ± {found.error:.4f}{relative}"


def sentence(study: Study, claim: Claim) -> str:
    """One sentence on a claim: the verdict and the numbers it rests on, then the same of the other figure."""
    said, found = judge(study, claim)
    if found is None:
        return f"{claim.text}: {said}."
    text = f"{claim.text}: **{said}** ({shown(found)}{_of_starts(study, claim)})"
    for figure in FIGURES:
        other, beside = judge(study, claim, figure)
        if figure != study.figure and beside is not None:
            text += f"; {NAMES[figure]} items: {other} ({shown(beside)})"
    return f"{text}."


def _of_starts(study: Study, claim: Claim) -> str:
    """What two cells differ by before any training, where they begin apart."""
    starts = [study.start(cell) for cell in (claim.cell, claim.reference)]
    if claim.says == "loses less" or not starts[0] or not starts[1] or starts[0] == starts[1]:
        return ""
    found = difference(study, starts[0], starts[1])
    return f"; untrained {found.mean:+.4f}" if found else ""


def summary(study: Study) -> str:
    """How many of the paper's claims ended how; ours, marked so, are not counted."""
    ends = [judge(study, claim)[0] for claim in CLAIMS if not claim.text.startswith("(ours)")]
    counts = {end: ends.count(end) for end in ENDS}
    shuffled = next(claim for claim in CLAIMS if claim.cell == "shuffled_labels")
    learned, found = judge(study, shuffled)
    caution = ""
    if found is not None and learned not in ("holds", START_ALONE):
        caution = (
            " Models trained on shuffled labels are not measurably worse here: what these models learned is little "
            "more than popularity, and rows that compare them say little; train longer."
        )
    alone = ""
    if counts[START_ALONE]:
        alone = f" For {counts[START_ALONE]} training added nothing that can be told: the start alone gives it."
    return (
        f"Claims of the paper, judged by {NAMES[study.figure]} items: {counts['holds']} of {sum(counts.values())} "
        f"hold, {counts['does not hold']} not, {counts['cannot be told at this size']} cannot be told at this size."
        f"{alone}{caution}"
    )


def _level(study: Study, cell: str, figure: str) -> str:
    found = study.level(cell, figure)
    return f"{found[0]:.4f} ± {found[1]:.4f}" if found else "-"


def _difference(study: Study, cell: str, reference: str | None, figure: str) -> str:
    found = difference(study, cell, reference, figure) if reference and reference != cell else None
    return f"{found.mean:+.4f} ± {found.error:.4f}" if found else "-"


def _plain(values: list[float], digits: int) -> str:
    return f"{statistics.fmean(values):.{digits}f}" if values else "-"


def table(
    study: Study,
    rows: tuple[tuple[str, str, tuple[float | None, ...]], ...],
    columns: tuple[str, ...],
    base: str = BASE,
) -> str:
    """A Markdown table: the paper's columns, then ours, new items first; a row's difference to its start and the base.

    Args:
        rows: (label, cell, the paper's figures).
        base: The cell that rows are held against, at a row's own frequency.
    """
    over_start = any(study.start(cell) for _, cell, _ in rows)
    diverse = [name for name in ("entropy", "coverage") if any(study.values(cell, name) for _, cell, _ in rows)]
    heads = [f"paper {c}" for c in columns] + ["new", "all"]
    heads += ["new, over its start", "all, over its start"] * over_start + ["new, over the base", "all, over the base"]
    heads += [{"entropy": "entropy@50", "coverage": "P90@10"}[name] for name in diverse]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for label, cell, paper in rows:
        name, at, frequency = cell.partition("@")
        against = f"{base}{at}{frequency}" if f"{base}{at}{frequency}" != cell else None
        values = ["-" if value is None else f"{value:.3f}" for value in paper]
        values += [_level(study, cell, figure) for figure in FIGURES]
        if over_start:
            values += [_difference(study, cell, study.start(cell), figure) for figure in FIGURES]
        values += [_difference(study, cell, against, figure) for figure in FIGURES]
        values += [_plain(study.values(cell, name), 2 if name == "entropy" else 4) for name in diverse]
        lines.append(f"| {label} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def describe(study: Study) -> str:
    """What the figures of a data set are of."""
    base, size = study.baselines, study.facts["size"]
    figures, identity = base["figures"]["popularity"], base["identity"]
    folds, cuts = identity["folds"], len(identity["cut_ms"])
    users, events = (listed(base[f"training_{what}"], "{:,}") for what in ("users", "events"))
    told, enough = what_can_be_told(base, study.figure)
    until = base["vectors_until"]
    lines = [
        f"{figures['users']:,} users are reported, with {figures['positives']:,} positives of "
        f"{'the' if cuts == 1 else f'{cuts} windows of'} {'next ' * (cuts == 1)}{identity['days']} days, "
        f"{figures['positives_new']:,} of them new to the user. {users} users train, with {events} events before the "
        f"{'first ' * (cuts > 1)}cut.",
        "They are the timelines' evaluation users, less the half that chooses."
        if folds == 1
        else f"All users are dealt to {folds} folds; each is reported once, by models that neither trained nor chose "
        "on it. The users that choose are a fifth of a fold's training side.",
        told + ("." if enough else ": **too few to tell rows apart**."),
        f"Corpus {base['corpus']:,} pins; topics: {base['topics']}. The item vectors know nothing from {until} on."
        if until
        else f"Corpus {base['corpus']:,} pins; topics: {base['topics']}. Until when the item vectors know what "
        "happened is not known.",
        f"Models: H {size['hidden_size']}, {size['num_layers']} layer, M {size['max_sequence_length']}, "
        f"d {size['embedding_dim']}; {size['steps']} training steps of {size['users_per_step']} users, "
        f"{size['positions']} positions a user, {size['random_negatives']} random negatives; {_complete(study)}.",
        *_choices(study),
    ]
    return "\n".join(f"- {line[0].upper()}{line[1:]}" for line in lines)


def _complete(study: Study) -> str:
    """How much of a study was done, and what it took."""
    seeds = [len(results) for results in study.trained.values()]
    folds = study.facts["folds"]
    models = len({tuple(cell[:2]) for part in (study.facts, study.levers) for cell in part.get("cells", [])})
    most = f"{max(seeds, default=0)} seed{'s' * (max(seeds, default=0) != 1)}"
    text = most if not seeds or min(seeds) == max(seeds) else f"{min(seeds)} to {most}"
    text += " per cell" + (f" and fold, {folds} folds" if folds > 1 else "")
    if sum(seeds) < models:
        text += f", {sum(seeds)} of {models} models: time ran out"
    cpu = sum(r["cpu_s"]["all"] for results in study.trained.values() for r in results)
    return f"{text}; {cpu / 60:.0f} minutes of one core in all"


def _choices(study: Study) -> list[str]:
    """What was chosen, and how far training came."""
    facts, lines = study.facts, []
    rates = "; ".join(
        f"{name} {listed(chosen, '{:g}')}" + (f" (of {', '.join(tried)})" if (tried := _tried(study, name)) else "")
        for name, chosen in facts["learning_rate"].items()
    )
    edge = f" At an edge of its grid all the same: {', '.join(facts['at_edge'])}." if facts["at_edge"] else ""
    lines.append(f"Learning rates: {rates}.{edge}" + (" Nothing was tried." if not facts["learning_rates"] else ""))
    for name, titles in study.baselines["titles"].items():
        if name not in NEED_AN_ORACLE:
            lines.append(f"Row {name.replace('_', ' ')}: {listed(titles, '{}')}.")
    for name, why in study.baselines["missing"].items():
        lines.append(f"Row {name.replace('_', ' ')} is missing: {why}.")
    kept = [run["kept_step"] / run["steps"] for rs in study.trained.values() for r in rs for run in r["training"]]
    if kept:
        last = sum(share == 1 for share in kept)
        lines.append(f"{last} of {len(kept)} trainings kept their last step, {len(kept) - last} an earlier one.")
    diverged = [
        f"{name} at {run['diverged_at']}"
        for name, results in study.trained.items()
        for result in results
        for run in result["training"]
        if run["diverged_at"]
    ]
    if diverged:
        lines.append(f"Trainings that ended at a loss that is no number, with the step: {', '.join(diverged)}.")
    runs = {
        name: study.trained[name][0]["training"] for name in (BASE, "all_action_28", "sasrec") if name in study.cells
    }
    pairs = [f"{name} {statistics.fmean(r['pairs_a_step'] for r in found):,.0f}" for name, found in runs.items()]
    if pairs:
        lines.append(f"(Position, label) pairs a step: {', '.join(pairs)}.")
    return lines


def _tried(study: Study, name: str) -> list[str]:
    return sorted(study.facts["learning_rates"].get(name, {}), key=float)


RULE = (
    "How a row is judged. Every cell was measured before its first training step too: its start. A claim is judged "
    "only where the cell it calls better (both cells, where it calls them alike) is ahead of its own start by two "
    "standard errors; otherwise the page says that the start alone gives it. That a model beats a row that was never "
    "trained, and is behind it, does not hold either way.",
    'A difference between two cells is paired by seed and by user. "Higher" holds if it is more than two standard '
    'errors above 0, does not hold if it is more than two below, and cannot be told at this size in between; "lower" '
    'likewise; "as good" holds if the difference with two standard errors either way lies within 5 % of the '
    "reference, does not hold if it lies outside altogether. No row was judged by hand.",
    "After ± stands a standard error. Of a level it is that of the users: other users would have given another level. "
    "Of a difference it has two parts, added in squares: that of the users, and that of the seeds (another start and "
    "another order of the users), which is not known from one seed and left out then.",
    "New items first: a pin that a user had never engaged with, among such pins. What a user engages with again, "
    "counts of the user's own are hard to beat, and need no model.",
)


def _sections(study: Study) -> list[str]:
    parts: list[str] = []
    for name, content in PAPER.items():
        rows = tuple(row for row in content.rows if study.values(row[1], "recall"))
        shown_above = {row[1] for row in rows}
        ours = (*content.ours, *(row for row in SIMPLE if row[1] not in shown_above))
        extra = tuple(row for row in ours if study.values(row[1], "recall"))
        claims = [claim for claim in CLAIMS if claim.table == name and judge(study, claim)[1] is not None]
        if rows and (claims or {row[1] for row in rows} != {BASE}):
            parts += [
                f"### {content.title}",
                table(study, rows + _blank(extra, content), content.columns),
                content.note,
            ]
            parts.append("\n".join(f"- {sentence(study, claim)}" for claim in claims))
    return parts + _cpu(study)


def _blank(rows: tuple[tuple[str, str], ...], content: PaperTable) -> tuple:
    return tuple((label, cell, (None,) * len(content.columns)) for label, cell in rows)


def _cpu(study: Study) -> list[str]:
    """What dense and all action took; only where one was trained to match the other."""
    names = (BASE, "all_action_28", "all_action_28_cpu")
    if "all_action_28_cpu" not in study.trained:
        return []
    runs = {name: [run for r in study.trained[name] for run in r["training"]] for name in names}
    took = {name: statistics.fmean(run["cpu_s"] for run in found) for name, found in runs.items()}
    steps = {name: statistics.fmean(run["steps"] for run in found) for name, found in runs.items()}
    return [
        f"A training of dense all action took {took[names[0]]:.0f} s of CPU for {steps[names[0]]:.0f} steps, all "
        f"action {took[names[1]]:.0f} s for as many, and {took[names[2]]:.0f} s for the {steps[names[2]]:.0f} that "
        "were to take as long."
    ]


def _levers(study: Study) -> list[str]:
    """What may make a better model, in the order of the users that choose."""
    if not study.levers:
        return []
    names = list(dict.fromkeys(name for name, _, _ in study.levers["cells"] if name in study.trained))
    choice = {n: statistics.fmean(r["choice"][study.figure] for r in study.trained[n]) for n in names}
    names.sort(key=lambda name: -choice[name])
    rows = tuple((f"{name.replace('_', ' ')} (choosing users: {choice[name]:.4f})", name, ()) for name in names)
    rows += tuple((label, cell, ()) for label, cell in SIMPLE if study.values(cell, "recall"))
    return [
        "### Levers",
        f"No questions of the paper's. The order is that of the users that choose, by {NAMES[study.figure]} items, and "
        f"they would take {names[0].replace('_', ' ')}; the figures are of the users reported.",
        table(study, rows, ()),
    ]


def kept_section(path: str) -> str:
    """What stands between the marks `KEPT` on the page that is there, marks and all: no study made it; "" for none."""
    if not os.path.exists(path):
        return ""
    with open(path) as file:
        text = file.read()
    first, last = text.find(KEPT[0]), text.find(KEPT[1])
    return text[first : last + len(KEPT[1])] if 0 <= first < last else ""


def write_page(studies: list[Study], path: str) -> None:
    """Writes the Markdown page of some studies, and their plots beside it."""
    kept = kept_section(path)
    parts = [
        "# Which of the paper's findings hold",
        "Written by `pinnerformer study` (`make study` makes it again); tables and sentences are of its result files. "
        "The paper's models have 46 M parameters and learn from 500 M users; these are small and train for seconds or "
        "minutes, so levels do not compare, only what beats what.",
        *RULE,
    ]
    for number, study in enumerate(studies):
        parts += [f"## {study.facts['title']}", describe(study)]
        if study.is_of_the_paper and BASE in study.cells:
            parts.append(summary(study))
            stem = os.path.splitext(os.path.basename(path))[0]
            plot = f"{stem}-{number + 1}.png"
            with replace_atomically(os.path.join(os.path.dirname(os.path.abspath(path)), plot)) as temporary:
                draw(study, temporary)
            parts.append(f"![what beats what, relative to the served configuration]({plot})")
        parts += [*(_sections(study) if study.is_of_the_paper else []), *_levers(study)]
    wrapped = [wrap(part) for part in parts if part]
    wrapped[1:1] = [kept] if kept else []
    with replace_atomically(path) as temporary, open(temporary, "w") as file:
        file.write("\n\n".join(wrapped) + "\n")

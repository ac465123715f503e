"""Does it foresee anything: start, trained model and baselines on logs of one's own, every user reported once.

`python -m benchmarks.foresight --logs LOGS --label-rule RULE --cuts DATE ... --out OUT`. At every cut, item vectors
are made of what lies before it, and timelines with them. All users are dealt to folds. In a fold the others train, but
for a fifth of them, who choose: the baselines' settings, the start, the step of training that is kept (the start is
one of the choices, as in `train`). Choices and figures are pooled over the cuts, by user; what is chosen holds for all
cuts of a fold. Baselines learn from everybody's logs before the cut, as item vectors do; each has its best setting by
either kind of recall in the column of that kind, where ours has one model, chosen by new items.

`--try` trains the first fold only, prints what the users that choose say, and looks at nobody else: for finding a
recipe. A run that was interrupted goes on. Errors are over users; differences are paired.
"""

import argparse
import dataclasses
import datetime
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from pinnerformer_model.config import ModelConfig
from pinnerformer_model.evaluation import Figures, embed_moments, figures_of, pool_figures
from pinnerformer_model.inference import encode_pins
from pinnerformer_model.memory import keep_freed_memory
from pinnerformer_model.ranking import vector_scorer
from pinnerformer_model.step_batches import BatchMaker, Feed
from pinnerformer_model.training import Trainer
from pinnerformer_model.training_settings import OBJECTIVES, Negatives, Objective, StartSettings, TrainingSettings
from pinnerformer_model.user_errors import pool
from pipelines.cli import main as pinnerformer
from pipelines.study.parts import Source, StudyData, load_study_data
from pipelines.study.pooling import as_part
from pipelines.training.start import Starts, Towers, choose_start
from stores.files import replace_atomically
from transforms.baselines import BASELINES, ORACLES, choose_settings, measure_baseline
from transforms.evaluation import Evaluation
from transforms.item_vector_rules import NORMS
from transforms.training_data import TrainingData, config_fields

COLUMNS = (("all", ""), ("new", "_new"))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained; one for all cuts and folds.

    Attributes:
        length: M.
        checks: Times that the users who choose are asked, evenly spaced.
        label_days: See `Objective`; 0: labels are of all days.
    """

    objective: str = "dense_all_action"
    learning_rate: float = 1e-4
    steps: int = 150
    repeat_weight: float = 1.0
    length: int = 128
    positions: int = 32
    users_per_step: int = 64
    random_negatives: int = 2048
    checks: int = 3
    seed: int = 0
    label_days: int = 0

    @property
    def name(self) -> str:
        return "-".join(str(value) for value in dataclasses.astuple(self))

    def settings(self, pins: int) -> TrainingSettings:
        """For a corpus of so many pins."""
        return TrainingSettings(
            objective=Objective(
                self.objective,
                positions=self.positions,
                labels=self.positions,
                label_days=self.label_days or None,
            ),
            negatives=Negatives("mixed", min(self.random_negatives, pins)),
            steps=self.steps,
            warmup_steps=max(1, self.steps // 10),
            learning_rate=self.learning_rate,
            users_per_step=self.users_per_step,
            repeat_weight=self.repeat_weight,
            token_budget=1024,
            seed=self.seed,
        )

    def config(self, data: TrainingData) -> ModelConfig:
        """Of a model for these timelines: one layer, as wide as the vectors."""
        return ModelConfig(
            hidden_size=256,
            num_layers=1,
            num_heads=4,
            ffn_size=1024,
            max_sequence_length=self.length,
            embedding_dim=256,
            pin_hidden_size=512,
            action_dim=16,
            surface_dim=16,
            **config_fields(data),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """One fold at one cut.

    Attributes:
        starts: Makes fresh models, of what training users did before.
        choice, report: Who chooses, and who is reported.
    """

    starts: Starts
    choice: Evaluation
    report: Evaluation

    @classmethod
    def of(cls, data: StudyData, fold: int, recipe: Recipe) -> "Cut":
        """A fold of the users at the one cut of these data."""
        split, (cut_ms,) = data.fold(fold), data.cuts_ms
        config = recipe.config(data.train)
        training = split.training.before(cut_ms)
        starts = Starts(config, recipe.seed, data.train.vectors, training, cut_ms)
        return cls(starts, split.choice[0], split.report[0])


def prepare(arguments: argparse.Namespace, cut: datetime.date) -> StudyData:
    """Item vectors of what lies before a cut, timelines to the end of its window, both once; loads them."""
    until = cut - datetime.timedelta(arguments.vectors_lag)
    folder = os.path.join(arguments.out, cut.isoformat() + (f"-{until}" if until < cut else ""))
    pins, timelines = os.path.join(folder, "pins"), os.path.join(folder, "timelines")
    logs = f"--logs={arguments.logs}"
    if not os.path.exists(os.path.join(pins, "version.json")):
        content = [f"--content={arguments.content}"] if arguments.content else []
        run(
            ["item-vectors", logs, f"--until={until}", f"--out={pins}", f"--norm={arguments.norm}", "--quiet", *content]
        )
    if not os.path.exists(os.path.join(timelines, "timelines.json")):
        first = min(name for name in os.listdir(arguments.logs) if name.startswith("ds="))[3:]
        when = [f"--start={first}", f"--end={cut + datetime.timedelta(arguments.days - 1)}"]
        inputs = [logs, f"--pins={pins}", f"--label-rule={arguments.label_rule}", f"--out={timelines}"]
        run(["training-data", *inputs, *when, "--evaluation-share=0.2", "--quiet"])  # the folds deal all users again
    return load_study_data(Source(timelines, pins, (cut,), arguments.days, arguments.folds))


def run(command: list[str]) -> None:
    """Runs a command of the console script; ends where it fails."""
    if code := pinnerformer(command):
        sys.exit(code)


def measure(towers: Towers, asked: Evaluation, length: int) -> Figures:
    """What a model gets."""
    user_tower, pin_tower = towers
    queries = embed_moments(user_tower, asked.timelines, asked.vectors, asked.moments("once"), length)
    return asked.score(vector_scorer(queries, encode_pins(pin_tower, asked.vectors)), diversity=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Pooled:
    """The cuts of a fold as one, for `choose_start`."""

    cuts: Sequence[Cut]

    def make(self, settings: StartSettings) -> list[Towers]:
        return [cut.starts.make(settings) for cut in self.cuts]

    def measure(self, *models: Towers) -> Figures:
        length = self.cuts[0].starts.config.max_sequence_length
        found = [measure(model, cut.choice, length) for cut, model in zip(self.cuts, models, strict=True)]
        return pool_figures(found)

    @staticmethod
    def compare(figures: Figures, others: Figures) -> tuple[float, float]:
        return figures.less(others)["recall_new"]


def baselines_of(cuts: Sequence[Cut], known: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every baseline of a fold: its settings by either kind of recall, and what each gets of the users reported.

    Args:
        known: Those that were measured before.
    """
    choice, report = [cut.choice for cut in cuts], [cut.report for cut in cuts]
    found = dict(known)
    for baseline in BASELINES:
        if baseline.name in ORACLES or baseline.name in known or baseline.missing():
            continue
        began = time.perf_counter()
        chosen = choose_settings(baseline, choice)
        figures = {by: measure_baseline(baseline, chosen[by], report, diversity=False) for by, _ in COLUMNS}
        found[baseline.name] = {
            "titles": {by: baseline.title(chosen[by], report[-1]) for by, _ in COLUMNS},
            "sums": merged(figures["all"], figures["new"]),
        }
        say(f"  {baseline.name}: {time.perf_counter() - began:.0f} s")
    return found


def merged(of_all: Figures, of_new: Figures) -> dict[str, list[float]]:
    """Sums by user, those of new items from another setting than those of all."""
    a, b = as_part(of_all)["by_user"], as_part(of_new)["by_user"]
    return {name: (b if name.endswith("_new") else a)[name] for name in a}


def train(cuts: Sequence[Cut], start: StartSettings, recipe: Recipe, report: bool) -> dict[str, Any]:
    """Trains a model a cut; what the start and every check of it get, and the step that the choosing users like best.

    Args:
        report: Measure the users reported; else those that choose only.
    """
    asked = ("choice", "report") if report else ("choice",)
    steps = sorted({recipe.steps * turn // recipe.checks for turn in range(recipe.checks + 1)})
    found: dict[tuple[str, int], list[Figures]] = {(half, step): [] for half in asked for step in steps}
    cpu = 0.0
    for cut in cuts:
        starts, settings = cut.starts, recipe.settings(len(cut.starts.vectors))
        trainer = Trainer(starts.config, *starts.make(start), settings, len(starts.vectors))
        maker = BatchMaker(starts.past, starts.vectors, settings, recipe.length, end_ms=starts.until_ms)
        feed = Feed(maker, 0, recipe.steps) if recipe.steps else None
        if feed:
            trainer.calibrate(maker.make(0))
        for step in range(recipe.steps + 1):
            began = time.process_time()
            if feed and step:
                trainer.step(feed.next())
            cpu += time.process_time() - began
            if step in steps:
                towers = trainer.user_tower.eval(), trainer.pin_tower.eval()
                for half in asked:
                    found[half, step].append(measure(towers, getattr(cut, half), recipe.length))
                trainer.user_tower.train()
                trainer.pin_tower.train()
        if feed:
            feed.close()
    pooled = {key: pool_figures(figures) for key, figures in found.items()}
    kept = max(steps, key=lambda step: pooled["choice", step].recall_new[0])
    chosen_by = {step: pooled["choice", step] for step in steps}
    for step, figures in chosen_by.items():
        ahead = figures.less(chosen_by[0])
        of = ", ".join(f"{name} {value:+.4f} ± {error:.4f}" for name, (value, error) in ahead.items())
        say(f"  choosing users, step {step}: new {figures.recall_new[0]:.4f}, all {figures.recall[0]:.4f}; {of}")
    parts = {half: {step: as_part(pooled[half, step])["by_user"] for step in steps} for half in asked}
    return {"kept": kept, "cpu_s": cpu, **parts}


def fold_of(arguments: argparse.Namespace, data: Sequence[StudyData], number: int, recipe: Recipe) -> dict[str, Any]:
    """A fold's start, baselines and training; what was done before is read."""
    cuts = [Cut.of(one, number, recipe) for one in data]
    base = os.path.join(
        arguments.out, "folds", f"{number}-of-{arguments.folds}-{recipe.length}-{arguments.vectors_lag}.json"
    )
    began = time.perf_counter()
    if not os.path.exists(base):
        pooled = Pooled(cuts)
        start = choose_start(lambda settings: pooled.measure(*pooled.make(settings)), pooled.compare)
        say(f"fold {number + 1}: start chosen in {time.perf_counter() - began:.0f} s: {start}")
        write(base, {"start": dataclasses.asdict(start)})
    found = read(base)
    if not arguments.tries:
        known = found.get("baselines", {})
        found["baselines"] = baselines_of(cuts, known)
        if found["baselines"].keys() != known.keys():
            write(base, found)
    start = StartSettings(**found["start"])
    path = os.path.join(
        arguments.out,
        "tries" if arguments.tries else "trained",
        f"{recipe.name}-lag{arguments.vectors_lag}-fold{number}.json",
    )
    if not os.path.exists(path):
        began = time.perf_counter()
        write(path, train(cuts, start, recipe, report=not arguments.tries))
        say(f"fold {number + 1}: trained in {time.perf_counter() - began:.0f} s")
    return {**found, "trained": read(path)}


def write(path: str, value: dict[str, Any]) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with replace_atomically(path) as temporary, open(temporary, "w") as file:
        json.dump(value, file)


def read(path: str) -> dict[str, Any]:
    with open(path) as file:
        found: dict[str, Any] = json.load(file)
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def together(parts: Sequence[dict[str, Any]]) -> Figures:
    """The folds as one."""
    return figures_of(pool(parts))


def report_lines(folds: Sequence[dict[str, Any]]) -> list[str]:
    """The table: levels, and how far start and trained model are ahead of each row."""
    start = together([fold["trained"]["report"]["0"] for fold in folds])
    trained = together([fold["trained"]["report"][str(fold["trained"]["kept"])] for fold in folds])
    rows: dict[str, Figures] = {"trained": trained, "untrained start": start}
    # What training does where nobody stops it: the start is no choice here.
    last = [fold["trained"]["report"][max(fold["trained"]["report"], key=int)] for fold in folds]
    rows["the last step, whatever is chosen"] = together(last)
    for name in folds[0]["baselines"]:
        rows[name.replace("_", " ")] = together([fold["baselines"][name]["sums"] for fold in folds])
    lines = [
        f"{trained.users:,} users, {trained.positives:,} positives, {trained.positives_new:,} of them new",
        "",
        "| | all | new | start ahead: all | new | trained ahead: all | new |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, figures in rows.items():
        levels = [f"{getattr(figures, f)[0]:.4f}±{figures.errors[f]:.4f}" for f in ("recall", "recall_new")]
        for ours in (start, trained):
            ahead = ours.less(figures)
            same = ours is figures or name == "trained"
            levels += ["" if same else f"{v:+.4f}±{e:.4f}" for v, e in (ahead["recall"], ahead["recall_new"])]
        lines.append(f"| {name} | {' | '.join(levels)} |")
    lines += ["", "Chosen, a fold each:", ""]
    lines.append("- start: " + "; ".join(StartSettings(**fold["start"]).describe() for fold in folds))
    lines.append("- step kept: " + ", ".join(str(fold["trained"]["kept"]) for fold in folds))
    for name, found in folds[0]["baselines"].items():
        for by in found["titles"]:
            titles = [fold["baselines"][name]["titles"][by] for fold in folds]
            lines.append(f"- {name}, by {by}: " + "; ".join(dict.fromkeys(titles)))
    return [*lines, f"- CPU seconds of the training steps: {sum(fold['trained']['cpu_s'] for fold in folds):.0f}"]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", required=True, metavar="DIR", help="ds=YYYY-MM-DD/*.parquet")
    parser.add_argument("--label-rule", required=True, metavar="FILE", help="what is positive")
    parser.add_argument("--content", metavar="VECTORS", help="of `item-vectors`")
    parser.add_argument("--out", required=True, metavar="DIR", help="vectors, timelines, finished folds")
    parser.add_argument("--cuts", required=True, nargs="+", type=datetime.date.fromisoformat, metavar="DATE")
    parser.add_argument("--days", type=int, default=14, help="length of a window (default %(default)s)")
    parser.add_argument("--folds", type=int, default=3, help="of the users (default %(default)s)")
    parser.add_argument(
        "--vectors-lag", type=int, default=0, metavar="DAYS", help="vectors end so long before the cut (0)"
    )
    parser.add_argument("--norm", choices=NORMS, default="unit", help="of `item-vectors` (default %(default)s)")
    parser.add_argument("--try", dest="tries", action="store_true", help="the first fold's choosing users only")
    parser.add_argument("--objective", choices=OBJECTIVES, default=Recipe.objective)
    for name in ("learning_rate", "repeat_weight"):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=float, default=getattr(Recipe, name), help="(default %(default)s)")
    for name in ("steps", "checks", "length", "positions", "users_per_step", "random_negatives", "seed", "label_days"):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=int, default=getattr(Recipe, name), help="(default %(default)s)")
    return parser


def main() -> int:
    arguments = make_parser().parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    given = vars(arguments)
    recipe = Recipe(**{field.name: given[field.name] for field in dataclasses.fields(Recipe)})
    data = [prepare(arguments, cut) for cut in arguments.cuts]
    numbers = range(1 if arguments.tries else arguments.folds)
    folds = [fold_of(arguments, data, number, recipe) for number in numbers]
    if not arguments.tries:
        print("\n".join(report_lines(folds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

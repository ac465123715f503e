"""Bad nights: which gate closes, at which size, and how often gates close on nights that are as usual.

    .venv/bin/python -m benchmarks.bad_nights [--users 6000] [--pins 3000] [--nights 8] [--steps 400] [--trials 1000]

Makes a synthetic world, trains a model on what was before its nights, and runs the nights with the trained model and
with initial weights. Then, for each, the next night is run once as it is, and once for every way of spoiling it; the
gates that close are printed. What the nights left of users and pins is kept, so that the gates can be told of other
sizes: nights of 100, 1,000 and 10,000 users are drawn from it, usual ones (`benchmarks.equal_nights`) and spoiled ones.
"""

import argparse
import dataclasses
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.equal_nights import (
    NOTHING,
    SIZES,
    START,
    UNKNOWN,
    Kept,
    draw_hours,
    draw_margins,
    draw_vocabulary,
    engaged_rows,
    look_back_rows,
    print_table,
    rhythm_rows,
    rows_by_hour,
    share_closed,
    unknown_by_user,
)
from benchmarks.spoiled import OF_RHYTHM, PINS, ROWS, Spoil
from pinnerformer_model.checkpoint import load_model, save_model
from pinnerformer_model.days import midnight_ms
from pinnerformer_model.inference import encode_pins
from pipelines.cli import main as pinnerformer
from stores.files import Root
from stores.manifests import Manifest
from stores.releases import read_current
from transforms import hindsight
from transforms.gates import CANNOT_SEE
from transforms.gates.hindsight import HINDSIGHT, hindsight_fall
from transforms.gates.rhythm import hours_shift, rows_per_user, vocabulary_rise
from transforms.hindsight import Vectors, pin_movements
from transforms.margins import Acts, Ranks

BOOTSTRAP = 14  # days before the first night
NOISE = 0.3  # of a pin vector that is computed again, in lengths of it: the median pin's


@dataclasses.dataclass
class Site:
    """A folder with logs, pins, models, and roots.

    Attributes:
        ranked: Of the night that was run last (margins, acts), by what was ranked: consistency, foresight.
        moved: Of it, how far pins moved.
        lost: Of it, what each user judged loses under a new model.
    """

    folder: str
    ranked: list[tuple[np.ndarray, Acts]] = dataclasses.field(default_factory=list)
    moved: list[np.ndarray] = dataclasses.field(default_factory=list)
    lost: list[np.ndarray] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        """Looks over the shoulder of the look back: a manifest keeps no more than means and spreads."""
        describe_ranks, describe, movements = hindsight.describe_ranks, hindsight.describe, hindsight.pin_movements

        def watch_ranks(ranks: Ranks, acts: Acts, drawn: int) -> dict:
            self.ranked.append((ranks.margin, acts))
            return describe_ranks(ranks, acts, drawn)

        def watch_lost(values: np.ndarray) -> dict:
            self.lost.append(values)
            return describe(values)

        def watch_movements(before: Vectors, tonight: Vectors) -> np.ndarray | None:
            found = movements(before, tonight)
            self.moved += [] if found is None else [found]
            return found

        hindsight.describe_ranks = watch_ranks  # type: ignore[assignment]
        hindsight.describe = watch_lost  # type: ignore[assignment]
        hindsight.pin_movements = watch_movements  # type: ignore[assignment]

    def day(self, number: int) -> datetime.date:
        return START + datetime.timedelta(number)

    def night(self, number: int, root: str, model: str, logs: str = "logs", pins: str = "pins", first: bool = False):
        """Runs a night; returns its manifest as far as it came, and the margins: consistency, foresight."""
        for kept in (self.ranked, self.moved, self.lost):
            kept.clear()
        flags = [f"--root={self.folder}/{root}", f"--model={self.folder}/{model}", f"--date={self.day(number)}"]
        flags += [f"--logs={self.folder}/{logs}", f"--pins={self.folder}/{pins}", "--publish=none", "--quiet"]
        flags += ["--index-m=32", "--index-ef-construction=400"]  # crowds of near pins
        flags += [f"--bootstrap-from={START}", "--user-buckets=4", "--pin-shards=1"] if first else []
        with open(os.devnull, "w") as nowhere:
            stderr, sys.stderr = sys.stderr, nowhere
            try:
                code = pinnerformer(["daily", *flags])
            finally:
                sys.stderr = stderr
        if code not in (0, 3):
            sys.exit(f"{root}, {model}, {logs}, {pins}: exit code {code}")
        return self.checked(root, code), [margins for margins, _ in self.ranked]

    def checked(self, root: str, code: int) -> Manifest:
        opened = Root(f"{self.folder}/{root}")
        if not code:
            manifest = read_current(opened)
            assert manifest is not None
            return manifest
        runs = [run for run in opened.list("staging") if opened.exists(f"staging/{run}/checked.json")]
        newest = max(runs, key=lambda run: opened.modified(f"staging/{run}/checked.json"))
        return Manifest.from_json(opened.read_json(f"staging/{newest}/checked.json"), newest)

    def copy(self, source: str, target: str) -> str:
        """A root beside another, its files linked: they are never changed in place."""
        shutil.rmtree(f"{self.folder}/{target}", ignore_errors=True)
        subprocess.run(["cp", "-al", f"{self.folder}/{source}", f"{self.folder}/{target}"], check=True)
        return target


def spoil_logs(site: Site, number: int, spoil: Spoil) -> str:
    """The logs with one partition spoiled; all others are linked."""
    target = f"{site.folder}/spoiled"
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-al", f"{site.folder}/logs", target], check=True)
    folder, random = f"{target}/ds={site.day(number)}", np.random.default_rng(number)
    parts = [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name.endswith(".parquet")]
    rows = pa.concat_tables([pq.read_table(path) for path in parts]).unify_dictionaries()
    for path in parts:
        os.unlink(path)
    pq.write_table(spoil(rows, random), f"{folder}/spoiled.parquet")
    return "spoiled"


def spoil_pins(site: Site, spoil: Callable[[pa.Table], pa.Table]) -> str:
    target = f"{site.folder}/spoiled-pins"
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    shutil.copy(f"{site.folder}/pins/version.json", target)
    parts = sorted(name for name in os.listdir(f"{site.folder}/pins") if name.endswith(".parquet"))
    pins = pa.concat_tables([pq.read_table(f"{site.folder}/pins/{name}") for name in parts])
    pq.write_table(spoil(pins), f"{target}/vectors.parquet")
    return "spoiled-pins"


def make_world(site: Site, arguments: argparse.Namespace) -> None:
    """Logs, pins, a trained model and two with initial weights, and one with the towers of two models."""
    folder, days = site.folder, BOOTSTRAP + arguments.nights + 2
    world = [f"--users={arguments.users}", f"--pins={arguments.pins}", f"--start={START}", f"--days={days}"]
    assert pinnerformer(["synth", f"--out={folder}/world", *world, "--seed=1", "--topics=80"]) == 0
    for name in ("logs", "pins"):
        os.rename(f"{folder}/world/{name}", f"{folder}/{name}")
    inputs = [f"--logs={folder}/logs", f"--pins={folder}/pins"]
    for seed in (1, 2):
        init = ["init-model", "--preset=tiny", *inputs, f"--out={folder}/initial-{seed}", f"--seed={seed}"]
        assert pinnerformer(init) == 0
    until = site.day(BOOTSTRAP)
    data = ["training-data", *inputs, f"--start={START}", f"--end={until + datetime.timedelta(2)}"]
    assert pinnerformer([*data, f"--out={folder}/timelines", "--quiet"]) == 0
    told = ["--preset=tiny", f"--steps={arguments.steps}", "--no-evaluation", "--users-per-step=64", "--days=7"]
    for seed in (1, 2):
        train = ["train", f"--timelines={folder}/timelines", f"--until={until}", f"--out={folder}/trained-{seed}"]
        assert pinnerformer([*train, *told, f"--seed={seed}", "--quiet"]) == 0
    for kind in ("initial", "trained"):
        for other in ("initial", "trained"):
            one, two = load_model(f"{folder}/{kind}-1"), load_model(f"{folder}/{other}-2")
            save_model(f"{folder}/{kind}-{other}", one.config, one.user_tower, two.pin_tower)


def said(manifest: Manifest) -> tuple[list[str], dict[str, str]]:
    """The gates that closed, and those that could not see."""
    return [gate["name"] for gate in manifest.gates if not gate["passed"]], manifest.statistics[CANNOT_SEE]


def read_rows(site: Site, number: int) -> pa.Table:
    folder = f"{site.folder}/logs/ds={site.day(number)}"
    parts = [pq.read_table(f"{folder}/{name}") for name in sorted(os.listdir(folder)) if name.endswith(".parquet")]
    return pa.concat_tables(parts).unify_dictionaries()


def draw_sizes(usual: np.ndarray, tonight: np.ndarray, trials: int) -> list[str]:
    """Of how many spoiled nights of each size `hindsight_fall` closes after six usual ones."""
    random = np.random.default_rng(3)
    return [share_closed(hindsight_fall, draw_margins(usual, tonight, 6, n, random), 6, trials) for n in SIZES]


def draw_rhythm(site: Site, number: int, trials: int) -> None:
    """How often the gates on rows close on nights of users drawn from a spoiled one, each with all of his rows."""
    rows, midnight, random = read_rows(site, number), midnight_ms(site.day(number)), np.random.default_rng(3)
    usual = rows_by_hour(rows, midnight)
    for name in OF_RHYTHM:
        tonight = rows_by_hour(ROWS[name](rows, random), midnight)
        for gate in (rows_per_user, hours_shift):
            shares = [share_closed(gate, draw_hours(usual, tonight, 8, size, random), 8, trials) for size in SIZES]
            print(f"drawn nights, {name}: `{gate.name}`, 8 usual: {shares}", flush=True)
    known = unknown_by_user(rows, *NOTHING)
    for column, word in UNKNOWN:
        unknown = unknown_by_user(rows, column, word)
        shares = [
            share_closed(vocabulary_rise, draw_vocabulary(known, unknown, 8, size, random), 8, trials) for size in SIZES
        ]
        print(f"drawn nights, {column} {word} renamed: `vocabulary_rise`, 8 usual: {shares}", flush=True)


def move_pins(site: Site, model: str) -> np.ndarray:
    """How far pins move between two exports whose vectors were computed again: `pin_movements`.

    Every vector is off by noise of its own size, lognormal about `NOISE` of its length: most pins move a little, some a
    good deal.
    """
    names = sorted(name for name in os.listdir(f"{site.folder}/pins") if name.endswith(".parquet"))
    pins = pa.concat_tables([pq.read_table(f"{site.folder}/pins/{name}") for name in names]).combine_chunks()
    vectors = pins["vector"].combine_chunks().flatten().to_numpy().reshape(pins.num_rows, -1).astype(np.float32)
    tower, random = load_model(f"{site.folder}/{model}").pin_tower, np.random.default_rng(3)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    size = NOISE * length * random.lognormal(0.0, 0.5, length.shape)

    def export() -> Vectors:
        noise = random.standard_normal(vectors.shape) / np.sqrt(vectors.shape[1])
        return Vectors.of(pins["pin_id"].to_numpy(), encode_pins(tower, (vectors + size * noise).astype(np.float16)))

    found = pin_movements(export(), export())
    assert found is not None
    return found


def vector_ids(site: Site) -> np.ndarray:
    """Sorted int64 ids of the pins that have a vector."""
    names = sorted(name for name in os.listdir(f"{site.folder}/pins") if name.endswith(".parquet"))
    pins = pa.concat_tables([pq.read_table(f"{site.folder}/pins/{name}", columns=["pin_id"]) for name in names])
    return np.unique(pins["pin_id"].to_numpy())


def run_usual(site: Site, kind: str, last: int) -> Kept:
    """Runs the usual nights of one model, the first one too."""
    kept = Kept()
    for number in range(BOOTSTRAP - 1, last):
        manifest, margins = site.night(number, f"root-{kind}", f"{kind}-1", first=number < BOOTSTRAP)
        figures = manifest.statistics[HINDSIGHT]
        print(
            f"{manifest.release}: {json.dumps(figures['foresight'])} {json.dumps(figures['consistency'])}", flush=True
        )
        print(f"  {said(manifest)}", flush=True)
        kept.consistency.append(margins[0])
        kept.foresight += margins[1:]
        kept.acts.append(site.ranked[-1][1])
        kept.movements += site.moved
        kept.pins = sum(entry.rows for entry in manifest.tables["pin_embeddings"])
    return kept


def run_model(site: Site, kind: str, arguments: argparse.Namespace) -> None:
    """The usual nights, and every bad one, of one model."""
    model, root = f"{kind}-1", f"root-{kind}"
    last = BOOTSTRAP + arguments.nights
    kept = run_usual(site, kind, last)
    usual = np.concatenate(kept.foresight)
    print(f"\n## {kind}: usual margin {usual.mean():.4f}, spread between users {usual.std():.4f}\n")
    draw_rhythm(site, last, arguments.trials // 5)
    print(
        "\n| night | gates that close | cannot see | margin | consistency | 100 users | 1,000 | 10,000 |\n|"
        + "---|" * 8
    )

    def show(name: str, manifest: Manifest, margins: list[np.ndarray]) -> None:
        closed, blind = said(manifest)
        figures = manifest.statistics[HINDSIGHT]
        cells = [name, ", ".join(f"`{c}`" for c in closed) or "none", ", ".join(blind) or "-"]
        for key in ("foresight", "consistency"):
            f = figures[key]
            cells.append(f"{f['margin']:.3f} ± {f['error']:.3f}" if f else "-")
        cells += draw_sizes(usual, margins[1], arguments.trials // 4) if len(margins) > 1 else ["-"] * 3
        extra = figures["new_model"] and figures["new_model"]["judged"]
        print(f"| {' | '.join(cells)} |" + (f" {json.dumps(extra)}" if extra else ""), flush=True)

    show("as it is", *site.night(last, site.copy(root, "again"), model))
    for name, spoil in ROWS.items():
        show(name, *site.night(last, site.copy(root, "again"), model, logs=spoil_logs(site, last, spoil)))
    for name, change in PINS.items():
        show(name, *site.night(last, site.copy(root, "again"), model, pins=spoil_pins(site, change)))
    # Trainings begin in one whitened space, whatever their seed: their towers half belong together.
    for two in ("initial", "trained"):
        name = f"{kind} user tower, {two} pin tower of another seed"
        show(name, *site.night(last, site.copy(root, "again"), f"{kind}-{two}"))
        shutil.rmtree(f"{site.folder}/again")
        show(f"{name}, a first night", *site.night(BOOTSTRAP, "again", f"{kind}-{two}", first=True))
    other = "initial" if kind == "trained" else "trained"
    manifest, margins = site.night(last, site.copy(root, "again"), f"{kind}-2")
    show(f"another {kind} model", manifest, margins)
    lost = site.lost[-1]
    show(f"{kind} -> {other}", *site.night(last, site.copy(root, "again"), f"{other}-1"))
    print_table(look_back_rows(kept, lost, move_pins(site, model)), arguments.trials)
    print_table(engaged_rows(read_rows(site, last), vector_ids(site)), arguments.trials)
    print_table(rhythm_rows(read_rows(site, last), midnight_ms(site.day(last))), arguments.trials)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=6_000)
    parser.add_argument("--pins", type=int, default=3_000)
    parser.add_argument("--nights", type=int, default=8)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--trials", type=int, default=1_000)
    parser.add_argument("--folder", help="where the world goes, and stays; without it, nowhere")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        site = Site(arguments.folder or folder)
        if not os.path.exists(f"{site.folder}/trained-trained"):
            make_world(site, arguments)
        for kind in ("trained", "initial"):
            run_model(site, kind, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`make demo`: a model trained on real receipts, three days of the daily job, one household's products by name."""

import argparse
import dataclasses
import datetime
import os
import shlex
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table

from examples.completejourney.import_receipts import import_receipts
from examples.completejourney.report import Household, Shown, write_report
from examples.completejourney.training import (
    NOTHING_BETTER,
    Measured,
    Served,
    measure_model,
    measure_served,
    training_commands,
    was_kept,
)
from pinnerformer_model.days import midnight_ms
from pipelines.cli import main as pinnerformer
from stores.files import Root
from stores.ids import bucket_of
from stores.manifests import Manifest
from stores.releases import chain
from stores.retriever import Retrieved, Retriever
from stores.tables import read_files

FIRST_DAY = datetime.date(2017, 11, 1)
BOOTSTRAP_FROM = datetime.date(2017, 7, 1)
DAYS = 3
HOUSEHOLDS = 3  # on the page; the first of them on the screen, too
COLUMNS = (
    "ten products nearest by",
    "new to the household",
    "all products",
    "overlap",
    "P90 coverage",
    "mean length",
)


class Names:
    """Product names by pin_id."""

    def __init__(self, path: str):
        table = pq.read_table(path).sort_by("pin_id")
        self._ids = table["pin_id"].to_numpy()
        self._names = table["name"].to_pylist()

    def __getitem__(self, pin_id: int) -> str:
        at = int(np.searchsorted(self._ids, pin_id))
        return self._names[at] if at < len(self._ids) and self._ids[at] == pin_id else f"product {pin_id}"


def run_command(*arguments: str, also: tuple[int, ...] = ()) -> None:
    """Runs one command of the console script as a user would; ends the demo where it fails.

    Args:
        also: Exit codes that are no failure, beside 0.
    """
    print(f"\n$ pinnerformer {' '.join(arguments)}", flush=True)
    code = pinnerformer([*arguments, "--config=none"])  # whatever file of flags lies here
    if code and code not in also:
        sys.exit(code)


def history_of(root: Root, manifest: Manifest, user_id: int) -> pa.Table:
    """A user's kept history, newest first."""
    bucket = int(bucket_of(np.array([user_id]), manifest.settings["layout"]["user_buckets"])[0])
    rows = read_files(root, manifest.parts("histories")[bucket])
    return rows.filter(pc.equal(rows["user_id"], user_id))


def choose_households(root: Root, manifest: Manifest, count: int) -> list[int]:
    """Some who were shopping on the last day: the households of its longest kept histories, lowest id first."""
    midnight = midnight_ms(manifest.day)
    found: list[tuple[int, int]] = []
    for entries in manifest.parts("histories").values():
        rows = read_files(root, entries, ["user_id", "timestamp_ms"])
        users, first, counts = np.unique(rows["user_id"].to_numpy(), return_index=True, return_counts=True)
        today = rows["timestamp_ms"].to_numpy()[first] >= midnight
        for user, length in zip(users[today].tolist(), counts[today].tolist(), strict=True):
            found.append((-length, user))
    return [user for _, user in sorted(found)[:count]]


def users_of(root: Root, manifest: Manifest) -> np.ndarray:
    """int64 [U], everybody whom a release serves."""
    parts = manifest.parts("user_embeddings").values()
    return np.concatenate([read_files(root, entries, ["user_id"])["user_id"].to_numpy() for entries in parts])


def household_of(user: int, history: pa.Table, found: Retrieved, names: Names) -> Household:
    """A household's last purchases and what was retrieved for it, by name.

    Args:
        history: Its kept history, newest first.
    """
    last = history.slice(0, 10)
    moments = last["timestamp_ms"].cast(pa.timestamp("ms")).to_pylist()
    columns = (last[name].to_pylist() for name in ("pin_id", "action", "surface"))
    bought = [
        (f"{moment:%d %b}", names[pin], action, surface)
        for moment, pin, action, surface in zip(moments, *columns, strict=True)
    ]
    retrieved = [(float(score), names[int(pin)]) for pin, score in zip(found.pin_ids, found.scores, strict=True)]
    return Household(user, bought, retrieved)


def show_household(household: Household) -> None:
    """Prints the last purchases and the retrieved products side by side."""
    bought, retrieved = household.bought, household.retrieved
    table = Table(box=box.SIMPLE, title=f"household {household.user}")
    for name in ("day", "last purchases", "how", "score", "retrieved products"):
        table.add_column(name, justify="right" if name == "score" else "left", overflow="fold")
    for index in range(max(len(bought), len(retrieved))):
        day, product, action, _ = bought[index] if index < len(bought) else ("", "", "", "")
        score, other = retrieved[index] if index < len(retrieved) else (None, "")
        table.add_row(day, product, action, "" if score is None else f"{score:.3f}", other)
    Console().print(table)


def say_kept(step: int) -> str:
    """Which weights the demo goes on with, for a person."""
    if step:
        return f"training was better than its start on the households that choose; step {step} was kept"
    return (
        "no step of training beat the start on the households that choose: the demo goes on with the start, "
        "which is a ridge regression on the products' vectors"
    )


def cells_of(way: Measured) -> list[str]:
    """A row for a person: recall of new products, of all, overlap, P90 coverage and its ceiling, mean length."""
    found = way.figures
    new, everything = (f"{getattr(found, kind)[0]:.4f} ± {found.errors[kind]:.4f}" for kind in ("recall_new", "recall"))
    length = "" if found.mean_length is None else f"{found.mean_length:.2f}"
    return [way.name, new, everything, f"{found.overlap:.2f}", f"{found.coverage:.4f}", length]


def say_asked(measured: list[Measured]) -> str:
    """Of whom the figures are."""
    found = measured[0].figures
    return (
        f"{found.users} households that neither trained nor chose, {found.positives:,} products bought in 14 days from "
        f"{FIRST_DAY} on, {found.positives_new:,} of them new; ±: standard error over households; so few allow a "
        f"coverage of {found.coverage_ceiling:.4f}"
    )


def say_served(served: Served) -> str:
    """How much alike the answers of the last release are."""
    return (
        f"served: two of {served.households:,} households share {served.overlap:.1%} of their ten products; 90 % of "
        f"all answers are {served.coverage:.4f} of the products (P90 coverage; {served.ceiling:.4f} at most)"
    )


def show_measured(measured: list[Measured]) -> None:
    """Prints how the model does on households that it has not seen, new products first."""
    table = Table(box=box.SIMPLE, title="recall@10 of what households bought next")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == COLUMNS[0] else "right")
    for way in measured:
        table.add_row(*cells_of(way))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(say_asked(measured))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="demo", metavar="DIR", help="where everything goes (default %(default)s)")
    arguments = parser.parse_args()
    started = time.perf_counter()
    out = os.path.abspath(arguments.out)
    world, timelines, model, root, kv = (os.path.join(out, n) for n in ("world", "timelines", "model", "root", "kv"))
    store = f"lmdb://{kv}"
    import_receipts(world, cutoff=FIRST_DAY)
    make_timelines, train = training_commands(world, timelines, model, FIRST_DAY)
    if not os.path.exists(os.path.join(timelines, "timelines.json")):
        run_command(*make_timelines)
    run_command(*train, also=(NOTHING_BETTER,))  # does nothing more where it is done
    kept = say_kept(was_kept(model))
    print(f"\n{kept}")
    measured = measure_model(timelines, model, FIRST_DAY)
    show_measured(measured)
    committed = {manifest.date for manifest in chain(Root(root))}
    for day in (FIRST_DAY + datetime.timedelta(n) for n in range(DAYS)):
        if day.isoformat() in committed:
            print(f"\n{day}: released already")
            continue
        first = [] if committed else ["--bootstrap-from", BOOTSTRAP_FROM.isoformat()]
        where = ["--root", root, "--logs", f"{world}/logs", "--pins", f"{world}/pins", "--model", model]
        run_command("daily", *where, "--date", day.isoformat(), "--kv", store, *first)
        committed.add(day.isoformat())
    run_command("status", "--root", root, "--kv", store)

    told = Shown((), COLUMNS, [cells_of(way) for way in measured], kept, say_asked(measured), "")
    page = show_release(out, root, store, os.path.join(world, "names.parquet"), told)
    print(f"\nreceipts    {world}/logs, vectors in {world}/pins\nmodel       {model}")
    print(f"releases    {root}\nkey-value   {store}\n{time.perf_counter() - started:.0f} s")
    print(last_lines(page, root, store, os.path.join(world, "names.parquet")))
    return 0


def show_release(out: str, root: str, store: str, named: str, told: Shown) -> str:
    """Shows what the last release gives households, the first of them here, and writes the demo's page; its path.

    Args:
        named: The file that says what products are called.
        told: What else the page says.
    """
    files, names = Root(root), Names(named)
    manifest = next(chain(files))
    users = choose_households(files, manifest, HOUSEHOLDS)
    retriever = Retriever(root, store)
    found = [retriever.retrieve(user, 10) for user in users]
    served = say_served(measure_served(retriever, users_of(files, manifest), manifest.rows("pin_embeddings")))
    retriever.close()
    households = [
        household_of(user, history_of(files, manifest, user), pins, names)
        for user, pins in zip(users, found, strict=True)
    ]
    for household in households[:1]:
        print(
            f"\n$ pinnerformer retrieve --root {root} --kv {store} --user {household.user} --k 10   (here with names)"
        )
        show_household(household)
    print(served)
    page = os.path.join(out, "report.html")
    write_report(page, files, manifest.release, named, dataclasses.replace(told, households=households, served=served))
    return page


def last_lines(page: str, root: str, store: str, named: str) -> str:
    """What to look at and what to type next: the report, and the server."""
    here = [shlex.quote(os.path.relpath(path)) for path in (root, named)]
    serve = f"pinnerformer serve --root {here[0]} --kv {shlex.quote(store)} --catalogue {here[1]}"
    program = os.path.relpath(os.path.join(os.path.dirname(sys.executable), ""))
    return f"\nlook at it  file://{page}\nask it      {os.path.join(program, serve)}"


if __name__ == "__main__":
    sys.exit(main())

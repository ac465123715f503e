"""`make demo`: a model trained on real receipts, three days of the daily job, one household's products by name."""

import argparse
import datetime
import os
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
from examples.completejourney.report import write_report
from examples.completejourney.training import Measured, measure_model, training_commands
from pinnerformer_model.days import midnight_ms
from pipelines.cli import main as pinnerformer
from stores.files import Root
from stores.ids import bucket_of
from stores.manifests import Manifest, read_manifest
from stores.releases import chain
from stores.retriever import Retriever
from stores.tables import read_files

FIRST_DAY = datetime.date(2017, 11, 1)
BOOTSTRAP_FROM = datetime.date(2017, 7, 1)
DAYS = 3


class Names:
    """Product names by pin_id."""

    def __init__(self, path: str):
        table = pq.read_table(path).sort_by("pin_id")
        self._ids = table["pin_id"].to_numpy()
        self._names = table["name"].to_pylist()

    def __getitem__(self, pin_id: int) -> str:
        at = int(np.searchsorted(self._ids, pin_id))
        return self._names[at] if at < len(self._ids) and self._ids[at] == pin_id else f"product {pin_id}"


def run_command(*arguments: str) -> None:
    """Runs one command of the console script as a user would; ends the demo where it fails."""
    print(f"\n$ pinnerformer {' '.join(arguments)}", flush=True)
    code = pinnerformer(list(arguments))
    if code:
        sys.exit(code)


def history_of(root: Root, manifest: Manifest, user_id: int) -> pa.Table:
    """A user's kept history, newest first."""
    bucket = int(bucket_of(np.array([user_id]), manifest.settings["layout"]["user_buckets"])[0])
    rows = read_files(root, manifest.parts("histories")[bucket])
    return rows.filter(pc.equal(rows["user_id"], user_id))


def choose_household(root: Root, manifest: Manifest) -> int:
    """Somebody who was shopping on the last day: the household of that day's longest kept history, lowest id first."""
    midnight = midnight_ms(manifest.day)
    best = (0, 0)
    for entries in manifest.parts("histories").values():
        rows = read_files(root, entries, ["user_id", "timestamp_ms"])
        users, first, counts = np.unique(rows["user_id"].to_numpy(), return_index=True, return_counts=True)
        today = rows["timestamp_ms"].to_numpy()[first] >= midnight
        for user, count in zip(users[today].tolist(), counts[today].tolist(), strict=True):
            best = max(best, (count, -user))
    return -best[1]


def show_household(user: int, history: pa.Table, found, names: Names) -> tuple[list[tuple], list[tuple]]:
    """Prints the last purchases and the retrieved products side by side; returns both lists."""
    moments = history["timestamp_ms"].cast(pa.timestamp("ms"))
    bought = [
        (f"{moment.as_py():%d %b}", names[pin.as_py()], action.as_py(), surface.as_py())
        for moment, pin, action, surface in zip(
            moments[:10], history["pin_id"][:10], history["action"][:10], history["surface"][:10], strict=True
        )
    ]
    retrieved = [(float(score), names[int(pin)]) for pin, score in zip(found.pin_ids, found.scores, strict=True)]
    table = Table(box=box.SIMPLE, title=f"household {user}")
    for name in ("day", "last purchases", "how", "score", "retrieved products"):
        table.add_column(name, justify="right" if name == "score" else "left", overflow="fold")
    for index in range(max(len(bought), len(retrieved))):
        day, product, action, _ = bought[index] if index < len(bought) else ("", "", "", "")
        score, other = retrieved[index] if index < len(retrieved) else (None, "")
        table.add_row(day, product, action, "" if score is None else f"{score:.3f}", other)
    Console().print(table)
    return bought, retrieved


def show_measured(measured: list[Measured], households: int, purchases: int) -> None:
    """Prints how the trained model does on households that it has not seen."""
    title = f"recall@10 over 14 days from {FIRST_DAY}: {households} households held out, {purchases:,} purchases"
    table = Table(box=box.SIMPLE, title=title)
    for name in ("ten products nearest by", "all products", "products new to the household"):
        table.add_column(name, justify="left" if name.startswith("ten") else "right")
    for way in measured:
        table.add_row(way.name, f"{way.all:.4f}", f"{way.new:.4f}")
    Console().print(table)


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
    run_command(*train)  # does nothing more where it is done
    measured, households, purchases = measure_model(timelines, model, FIRST_DAY)
    show_measured(measured, households, purchases)
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

    released = list(chain(Root(root)))[::-1]
    names = Names(os.path.join(world, "names.parquet"))
    manifest = read_manifest(Root(root), released[-1].release)
    user = choose_household(Root(root), manifest)
    retriever = Retriever(root, store)
    found = retriever.retrieve(user, 10)
    retriever.close()
    print(f"\n$ pinnerformer retrieve --root {root} --kv {store} --user {user} --k 10      (here with names)")
    bought, retrieved = show_household(user, history_of(Root(root), manifest, user), found, names)
    page = os.path.join(out, "report.html")
    write_report(page, released, user, bought, retrieved, [(m.name, m.all, m.new) for m in measured], households)
    print(f"\nreport      {page}\nreceipts    {world}/logs, vectors in {world}/pins\nmodel       {model}")
    print(f"releases    {root}\nkey-value   {store}\n{time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`make demo`: three days of the daily job on a year of real receipts, then one household's products by name."""

import argparse
import datetime
import html
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
    midnight = (manifest.day - datetime.date(1970, 1, 1)).days * 86_400_000
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="demo", metavar="DIR", help="where everything goes (default %(default)s)")
    parser.add_argument("--preset", default="small", help="of the model (default %(default)s)")
    arguments = parser.parse_args()
    started = time.perf_counter()
    out = os.path.abspath(arguments.out)
    world, model, root, kv = (os.path.join(out, name) for name in ("world", "model", "root", "kv"))
    store = f"lmdb://{kv}"
    import_receipts(world, cutoff=FIRST_DAY)
    if not os.path.exists(os.path.join(model, "model.safetensors")):
        run_command("init-model", "--preset", arguments.preset, "--logs", f"{world}/logs", "--out", model)
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
    note = (
        "The model is untrained: its weights are random, so the retrieved products show that the machinery works, not "
        "that it knows this household. Training is the next thing on the list."
    )
    write_report(page, released, user, bought, retrieved, html.escape(note))
    print(f"{note}\n\nreport      {page}\nreceipts    {world}/logs, vectors in {world}/pins\nmodel       {model}")
    print(f"releases    {root}\nkey-value   {store}\n{time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

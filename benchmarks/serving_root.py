"""A root of a million pins for `benchmarks.serving`, made of what `make demo` leaves.

    python -m benchmarks.serving_root --demo demo --out .cache/serving --pins 1000000

Random vectors are no index's friend, and nobody's pins. So every pin here is a product of the demo or a variant of one:
a point between its vector and that of one of its 16 nearest products, drawn anew for each variant (as SMOTE draws,
Chawla et al., arXiv:1106.1813). Such pins lie where products lie; of 15,000 with
noise added 43 to 96 were found by no search, of 15,000 like these 3. The demo's model embeds them, and the ordinary
`pinnerformer daily` does the rest: two nights of the households, of which the first builds the index and the second
finds no pin changed. The products keep their ids, so the households keep their histories.

Left in `--out`: `root`, `kv`, and `catalogue.parquet` with a column `part`: `part<500` are 50 % of the pins, `part<5`
are 0.5 %. The vectors (512 bytes a pin) are removed in the end.
"""

import argparse
import datetime
import os
import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring import run_measured
from benchmarks.night_world import ONE_THREAD
from stores.hnsw import HnswGraph, IndexParameters

FIRST = datetime.date(2017, 11, 1)  # the demo's first night
BOOTSTRAP_FROM = datetime.date(2017, 7, 1)
NEAR = 16
PARTS = 1000  # values of the catalogue's column
SEED = 1
# Two thousand households cannot show most of a million pins to one another.
LIMITS = "min_coverage_share: 0\nmin_coverage_pins: 0\n"


def nearest(vectors: np.ndarray) -> np.ndarray:
    """int64 [P, NEAR]: rows of the vectors, float16 [P, d], nearest to each among the distinct ones."""
    distinct, at = np.unique(vectors, axis=0, return_index=True)
    graph = HnswGraph.build(at, distinct, np.arange(len(at)), IndexParameters())
    return graph.search(vectors.astype(np.float32), NEAR + 1, 64, 1)[0][:, 1:]


def variants_of(vectors: np.ndarray, near: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """float16 [P, d]: of each vector, float16 [P, d] of norm 1, a variant of norm 1."""
    other = vectors[near[np.arange(len(near)), random.integers(0, NEAR, len(near))]].astype(np.float32)
    share = random.uniform(0.1, 0.5, (len(near), 1)).astype(np.float32)
    found = (1 - share) * vectors + share * other
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def write_vectors(demo: str, out: str, pins: int) -> None:
    """`out`/pins and `out`/catalogue.parquet."""
    source = f"{demo}/world/pins"
    (name,) = [name for name in os.listdir(source) if name.endswith(".parquet")]
    table = pq.read_table(f"{source}/{name}", columns=["pin_id", "vector"])
    ids, width = table["pin_id"].to_numpy(), table.schema.field("vector").type.list_size
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, width)
    near, random = nearest(vectors), np.random.default_rng(SEED)
    os.makedirs(f"{out}/pins", exist_ok=True)
    shutil.copy(f"{source}/version.json", f"{out}/pins")
    step, written = int(ids.max()) + 1, [np.empty(0, np.int64)]
    schema = pa.schema({"pin_id": pa.int64(), "vector": pa.list_(pa.float16(), width)})
    with pq.ParquetWriter(f"{out}/pins/vectors.parquet", schema) as writer:
        for start in range(0, pins, len(ids)):
            count = min(len(ids), pins - start)
            some = variants_of(vectors, near, random) if start else vectors
            flat = pa.array(some[:count].ravel())
            written.append(ids[:count] + step * (start // len(ids)))
            columns = {"pin_id": written[-1], "vector": pa.FixedSizeListArray.from_arrays(flat, width)}
            writer.write_table(pa.table(columns, schema=schema))
    every = np.concatenate(written)
    part = pa.array(random.integers(0, PARTS, len(every)).astype(np.int16))
    pq.write_table(pa.table({"pin_id": every, "part": part}), f"{out}/catalogue.parquet")


def run_daily(demo: str, out: str, day: datetime.date, flags: tuple[str, ...]) -> None:
    """One night into `out`/root; prints what it took."""
    given = {"root": f"{out}/root", "kv": f"lmdb://{out}/kv", "pins": f"{out}/pins", "date": day}
    given |= {"logs": f"{demo}/world/logs", "model": f"{demo}/model", "gates": f"{out}/gates.yaml"}
    command = [sys.executable, "-m", "pipelines.cli", "daily", *flags]
    cost = run_measured([*command, *(f"--{k}={v}" for k, v in given.items())], ONE_THREAD, f"{out}/{day}.log")
    gib = cost.peak_bytes / 2**30
    print(f"{day}: {cost.wall_s:.0f} s, {cost.cpu_s:.0f} s of CPU, at most {gib:.1f} GiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", default="demo", metavar="DIR", help="what `make demo` wrote (%(default)s)")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--pins", type=int, default=1_000_000, metavar="N")
    arguments = parser.parse_args()
    demo, out = os.path.abspath(arguments.demo), os.path.abspath(arguments.out)
    os.makedirs(out)
    write_vectors(demo, out, arguments.pins)
    with open(f"{out}/gates.yaml", "w") as file:
        file.write(LIMITS)
    run_daily(demo, out, FIRST, ("--bootstrap-from", BOOTSTRAP_FROM.isoformat()))
    run_daily(demo, out, FIRST + datetime.timedelta(days=1), ())
    shutil.rmtree(f"{out}/pins")


if __name__ == "__main__":
    main()

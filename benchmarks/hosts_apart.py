"""What distance costs: a night on three TaskManagers of one slot, and on one of three, on the same cores.

    python -m benchmarks.hosts_apart [--rounds 3] [--users 3000]

Every TaskManager, with its worker pool, is on a host of its own (`tests.engines.hosts`: root, iproute2). Both clusters
are started in turn, since two at once would share the cores; of each round the first night, which starts the workers'
templates, is left out. Printed: seconds of each night, seconds of CPU of everything on the hosts, bytes of each link
and of each exchange, what docs/scale.md's sums say of the exchanges that carry rows and vectors, and the ratio of the
medians.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from pinnerformer_model.checkpoint import load_config
from pinnerformer_model.config import ModelConfig
from pipelines.cli import main as pinnerformer
from pipelines.synthetic.world import PINSAGE_VERSION
from stores.ids import bucket_of
from tests.engines.flink_hosts import BUCKET, S3_PORT, FlinkHosts
from tests.worlds import write_model
from transforms.histories import cut_slices
from transforms.sequences import token_columns

BUCKETS, SHARDS = 12, 3
# docs/scale.md, "Bytes": a log row, and the id of a pin beside its vector of two bytes a number.
ROW_BYTES, ID_BYTES, NUMBER_BYTES = 36, 8, 2


def pins_of(rows: pa.Table, config: ModelConfig) -> int:
    """How many pins a slice asks for."""
    _, known = token_columns(rows, config.action_vocabulary, config.surface_vocabulary)
    return len(np.unique(rows["pin_id"].to_numpy()[known]))


def arithmetic(world: str, config: ModelConfig) -> dict[str, float]:
    """Bytes that exchanges of a first night move by the sums of docs/scale.md: part of the exchange's name -> bytes."""
    log = ds.dataset(f"{world}/logs").to_table().sort_by([("user_id", "ascending"), ("timestamp_ms", "descending")])
    bucket = bucket_of(log["user_id"].to_numpy(), BUCKETS)
    asked = 0
    for number in range(BUCKETS):
        mine = log.filter(bucket == number)
        slices = cut_slices(mine, np.unique(mine["user_id"].to_numpy()))
        asked += sum(pins_of(pa.Table.from_batches([piece]), config) for _, piece in slices)
    rows = log.num_rows * ROW_BYTES
    vectors = asked * (ID_BYTES + NUMBER_BYTES * config.pin_vector_dim)
    return {
        "UpdateHistories/GroupByBucket": rows,
        "JoinPinVectors/GroupBySlice": rows,
        "JoinPinVectors/MeetAtSlice": rows + vectors,
    }


def apart_from_threads(function: Callable, *arguments: Any) -> Any:
    """Runs it in another process: threads that pyarrow starts here stay on this host, and see none of the next one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def copy_world(world: str, s3: str) -> None:
    """Copies what a night reads to an S3 endpoint, `host:port`."""
    system = fs.S3FileSystem(endpoint_override=s3, scheme="http", access_key="tests", secret_key="none")
    fs.copy_files(world, f"{BUCKET}/world", destination_filesystem=system)


def cpu_seconds() -> float:
    """User and system seconds of this process's descendants, those that ended and were waited for among them."""
    found = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            found += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return found


def night(cluster: FlinkHosts, root: str) -> tuple[float, float]:
    """Runs a first night on a new root; its seconds, and those of CPU."""
    places = [f"--{name}={cluster.url}/world/{name}" for name in ("logs", "pins", "model")]
    flags = [f"--root={cluster.url}/{root}", *places, "--date=2026-11-01", "--bootstrap-from=2026-11-01"]
    flags += ["--publish=none", "--quiet", f"--user-buckets={BUCKETS}", f"--pin-shards={SHARDS}", "--join=shuffle"]
    began, used = time.perf_counter(), cpu_seconds()
    command = cluster.launch(flags)
    _, said = command.communicate(timeout=3600)
    assert command.returncode == 0, said
    return time.perf_counter() - began, cpu_seconds() - used


def measure(world: str, expected: dict[str, float], task_managers: int, slots: int, name: str) -> tuple[float, float]:
    """Seconds and CPU seconds of a night on a cluster that has run one; `expected` is of `arithmetic`."""
    with tempfile.TemporaryDirectory() as folder, FlinkHosts(folder, task_managers, slots) as cluster:
        apart_from_threads(copy_world, world, f"{cluster.hosts.addresses['stores']}:{S3_PORT}")
        night(cluster, "warm")
        before = {host: cluster.hosts.bytes_of(host) for host in cluster.hosts.names}
        found = night(cluster, "root")
        print(f"{name}: {found[0]:.1f} s, {found[1]:.1f} CPU s", flush=True)
        for host, (sent, received) in before.items():
            now = cluster.hosts.bytes_of(host)
            print(f"  {host}: sent {(now[0] - sent) / 1e6:.1f} MB, received {(now[1] - received) / 1e6:.1f} MB")
        for vertex in cluster.get(f"/v1/jobs/{list(cluster.jobs())[-1]}")["vertices"]:
            print(f"  {vertex['metrics']['write-bytes'] / 1e6:8.3f} MB from {vertex['name'][:90]}")
            for exchange, by_sums in expected.items():
                if vertex["name"].startswith("GroupReduce") and exchange in vertex["name"]:
                    read = vertex["metrics"]["read-bytes"]
                    print(
                        f"  {read / 1e6:8.3f} MB to {exchange}: {read / by_sums:.2f} of the sums' {by_sums / 1e6:.3f}"
                    )
        return found


def main() -> None:
    """Alternates the two clusters and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--users", type=int, default=3000)
    found = parser.parse_args()
    os.environ["PINNERFORMER_CONFIG"] = "none"
    with tempfile.TemporaryDirectory() as world:
        made = ["synth", f"--out={world}", f"--users={found.users}", "--pins=2000", "--start=2026-11-01", "--days=1"]
        assert pinnerformer([*made, "--seed=1"]) == 0
        model = write_model(f"{world}/model", version=PINSAGE_VERSION)
        expected = apart_from_threads(arithmetic, world, load_config(model))
        apart, together = [], []
        for number in range(found.rounds):
            apart.append(measure(world, expected, 3, 1, f"round {number}, three TaskManagers"))
            together.append(measure(world, expected, 1, 3, f"round {number}, one TaskManager"))
    for what, at in (("seconds", 0), ("CPU seconds", 1)):
        three, one = (statistics.median(night[at] for night in nights) for nights in (apart, together))
        print(f"{what}: three {three:.1f}, one {one:.1f}, ratio {three / one:.2f}")


if __name__ == "__main__":
    main()

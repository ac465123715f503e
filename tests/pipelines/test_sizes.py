"""What `plan --sizes` says: sums that can be done by hand, and that an overlay takes them."""

import dataclasses
import shlex

import pytest
import yaml

from pipelines.cli import main
from pipelines.planning.daily_request import parse
from pipelines.planning.sizes import GIB, NightSize, for_dataflow, for_kubernetes, sizes_of
from tests.worlds import day

# 10 core-hours: 40 M rows, 1 M pins of 256 numbers in float16, a model of 184 MB.
NIGHT = NightSize(
    rows=40_000_000,
    kept_rows=400_000_000,
    tokens=85e6,
    pins=1_000_000,
    vector_bytes=512_000_000,
    width=256,
    user_buckets=1024,
    pin_shards=8,
    model_bytes=184_000_000,
    work_s=36_000.0,
    join="broadcast",
    cuda=False,
)


def test_memory_is_the_sum_of_what_workers_hold():
    sizes = sizes_of(NIGHT, 4, processes=4)
    assert (sizes.machines, sizes.slots) == (3, 4)  # ten slots, in machines of four
    shard = 125_000 * (8 + 148 + 6 * 256)  # 0.21 GB: less than a slice's 0.3 GiB
    held = 40e6 * 36 / 12
    assert shard < 0.3 * GIB and 400e6 / 1024 * 150 < 0.3 * GIB
    expected = 4 * 0.6 * GIB + 4 * (0.3 * GIB + 184e6 + held) + 512e6
    assert sizes.memory_gib == -(-expected // GIB) == 6
    assert sizes.disk_gib == -(-(512e6 + 184e6 + 8 * shard + 4 * GIB) // GIB)


@pytest.mark.parametrize(
    ("change", "grows"),
    [
        ({"user_buckets": 32}, "memory_gib"),  # a bucket of 12.5 M rows: 1.9 GB
        ({"pin_shards": 1}, "memory_gib"),
        ({"pin_shards": 1}, "disk_gib"),
        ({"vector_bytes": 8 << 30}, "memory_gib"),
        ({"join": "shuffle", "tokens": 85e9}, "memory_gib"),  # what slices ask for waits in the workers
        ({"work_s": 360_000.0}, "machines"),
    ],
)
def test_more_of_anything_asks_for_more(change, grows):
    more, usual = sizes_of(dataclasses.replace(NIGHT, **change), 4, processes=4), sizes_of(NIGHT, 4, processes=4)
    assert getattr(more, grows) > getattr(usual, grows)


def test_a_small_night_is_one_worker():
    small = dataclasses.replace(NIGHT, work_s=30.0)
    assert sizes_of(small, 4, processes=4).slots == sizes_of(small, 4, processes=4).machines == 1


def test_a_component_of_the_overlay_sets_night_and_cluster_alike():
    flink, daily = yaml.safe_load(for_kubernetes(NIGHT))["patches"]
    set_to = {one["path"].rpartition("/")[2]: one["value"] for one in yaml.safe_load(flink["patch"])}
    assert set_to["taskmanager.numberOfTaskSlots"] == "4" and set_to["slotmanager.number-of-slots.max"] == "12"
    assert set_to["taskmanager.memory.task.off-heap.size"] == "1024m"
    assert set_to["resources"]["requests"] == {"cpu": "4", "memory": "6Gi", "ephemeral-storage": "7Gi"}
    (args,) = yaml.safe_load(daily["patch"])
    assert args["value"] == ["--parallelism=12", "--sdk_worker_parallelism=4"]
    with open("deploy/kubernetes/overlays/example/sizes/kustomization.yaml") as file:
        example = yaml.safe_load(file)
    for ours, theirs in zip((flink, daily), example["patches"], strict=True):
        paths = [[one["path"] for one in yaml.safe_load(part["patch"])] for part in (ours, theirs)]
        assert ours["target"] == theirs["target"] and paths[0] == paths[1]


def test_dataflow_gets_a_machine_with_the_memory_and_its_disk():
    assert for_dataflow(NIGHT) == (
        "--worker_machine_type=n2-standard-8 --number_of_worker_harness_threads=8 --max_num_workers=2 "
        "--disk_size_gb=33\n"
    )
    large = dataclasses.replace(NIGHT, pin_shards=1, pins=5_000_000, vector_bytes=2_560_000_000, cuda=True)
    words = shlex.split(for_dataflow(large))
    # A shard of 5 M pins takes 8.5 GB: of 64 GB seven threads, not eight, can build one at a time.
    assert words[:2] == ["--worker_machine_type=n2-highmem-8", "--number_of_worker_harness_threads=7"]
    assert words[2] == "--max_num_workers=3"
    gpu = "--embed-accelerator=type:nvidia-l4;count:1;install-nvidia-driver"
    assert words[4:] == ["--device=cuda", gpu, "--embed-ram=24GB"]
    parse(["--root=r", "--logs=l", "--pins=p", "--model=m", "--date=2026-11-24", "--publish=none", *words])


@pytest.mark.parametrize("engine", ["kubernetes", "dataflow"])
def test_plan_prints_them_and_nothing_else(engine, kept_nights, tmp_path, capsys):
    world, root = kept_nights.copy(1, str(tmp_path))
    assert main(["plan", f"--root={root}", *world.inputs, f"--date={day(1)}", f"--sizes={engine}"]) == 0
    said = capsys.readouterr().out
    if engine == "kubernetes":
        assert len(yaml.safe_load(said)["patches"]) == 2
    else:
        assert said.startswith("--worker_machine_type=n2-standard-8 ") and said.count("\n") == 1

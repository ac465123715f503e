"""Trains and runs nights on a GPU beside the same on the CPU, and holds one to the other. For a machine that has one.

`python -m tests.on_cuda [--out FOLDER]`; some two minutes. No part of `make test`: there is nothing to run it on there.
What differs by rounding is held to bounds, what has to be equal (a resumed training, a backfill beside its nights on
the same device) to the byte. Prints a line per comparison and the rates; ends with 1 if one did not hold.
"""

import argparse
import glob
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow.dataset as ds
import torch
from safetensors.torch import load_file

from pinnerformer_model.checkpoint import load_model
from pinnerformer_model.inference import UserEncoder, encode_pins
from pinnerformer_model.sequences import Sequences
from stores.files import Root

DAYS = "--start 2026-09-01 --days 40"


def start(command: str, folder: str) -> subprocess.Popen:
    """Starts one command of this checkout in a folder; its words go to `log` there."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    paths = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "PINNERFORMER_CACHE": f"{folder}/cache"}
    with open(f"{folder}/log", "a") as log:
        words = [sys.executable, "-m", "pinnerformer", *shlex.split(command)]
        return subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)


def run(command: str, folder: str) -> float:
    """Runs one command; returns its seconds.

    Raises:
        RuntimeError: it failed.
    """
    began = time.perf_counter()
    if start(command, folder).wait():
        with open(f"{folder}/log") as log:
            raise RuntimeError(f"pinnerformer {command}\n" + log.read()[-3000:])
    took = time.perf_counter() - began
    print(f"  {took:6.1f} s  {command}", flush=True)
    return took


def vectors(root: str, table: str, release: str) -> dict[int, np.ndarray]:
    """Id -> float32 vector of every row of a release's table."""
    manifest = json.loads(Root(root).read_bytes(f"releases/{release}/manifest.json"))
    files = [os.path.join(root, entry["path"]) for entry in manifest["tables"][table]]
    rows = ds.dataset(files).to_table()
    name = "user_id" if table == "user_embeddings" else "pin_id"
    values = [np.frombuffer(value, np.float16).astype(np.float32) for value in rows["embedding"].to_pylist()]
    return dict(zip(rows[name].to_pylist(), values, strict=True))


class Checks:
    """What held and what did not."""

    def __init__(self) -> None:
        self.failed = 0

    def hold(self, text: str, held: bool) -> None:
        self.failed += not held
        print(f"{'ok  ' if held else 'FAIL'} {text}", flush=True)


def compare(one: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> tuple[float, float]:
    """The least cosine and the share of rows that are equal; the ids must be."""
    assert one.keys() == other.keys(), "other ids"
    a, b = np.stack([one[i] for i in one]), np.stack([other[i] for i in one])
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(cosine.min()), float((a == b).all(1).mean())


def check_training(folder: str, device: str, checks: Checks) -> None:
    """CPU beside GPU in float32, a killed training beside an undisturbed one, and bfloat16."""
    common = "train --timelines timelines --preset demo --users-per-step 64 --seed 1 --start-ridge 1"
    plain = f"{common} --no-evaluation --steps 40 --warmup-steps 5"
    run(f"{plain} --out cpu", folder)
    run(f"{plain} --device {device} --precision float32 --out cuda", folder)
    a, b = load_file(f"{folder}/cpu/model.safetensors"), load_file(f"{folder}/cuda/model.safetensors")
    worst = max(float((a[k] - b[k]).norm() / (a[k].norm() + 1e-6)) for k in a)
    checks.hold(
        f"40 steps in float32: no parameter further from the CPU's than {worst:.1e} of its norm (5e-2)", worst < 5e-2
    )
    long = f"{common} --no-evaluation --steps 400 --save-every 20 --device {device}"
    whole = run(f"{long} --out whole", folder)
    process = start(f"{long} --out killed", folder)
    while process.poll() is None and len(glob.glob(f"{folder}/killed-training/*")) < 2:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    killed = process.wait() == -signal.SIGKILL
    run(f"{long} --out killed", folder)
    a, b = load_file(f"{folder}/whole/model.safetensors"), load_file(f"{folder}/killed/model.safetensors")
    worst = max(float((a[k] - b[k]).abs().max()) for k in a)
    checks.hold(
        f"killed ({killed}) and resumed as if undisturbed, bfloat16: largest difference {worst:.1e} (0)", worst == 0
    )
    print(f"     400 steps of 64 users in bfloat16: {whole:.1f} s with start-up")
    run(
        f"{common} --device {device} --steps 300 --evaluate-every 100 --choose-by all "
        "--until 2026-09-27 --evaluation-days 7 --out best",
        folder,
    )
    run("evaluate --timelines timelines --cut 2026-09-27 --days 7 --model best", folder)


def check_nights(folder: str, device: str, checks: Checks) -> None:
    """Two nights and their backfill on a GPU beside the nights on the CPU."""
    run("init-model --preset small --logs world/logs --pins world/pins --out small --seed 1", folder)
    inputs = "--logs world/logs --pins world/pins --model small --publish none --quiet"
    nights = ("--date 2026-10-08 --bootstrap-from 2026-09-01", "--date 2026-10-09")
    for root, where in (("cpu", "cpu"), ("cuda", device)):
        for night in nights:
            run(f"daily --root {root} --device {where} {inputs} {night} --user-buckets 8 --pin-shards 2", folder)
    run(
        f"backfill --root range --device {device} {inputs} --start 2026-10-08 --end 2026-10-09 "
        "--bootstrap-from 2026-09-01 --user-buckets 8 --pin-shards 2",
        folder,
    )
    last = sorted(os.listdir(f"{folder}/cuda/releases"))[-1]
    for table in ("user_embeddings", "pin_embeddings"):
        found = {
            root: vectors(f"{folder}/{root}", table, sorted(os.listdir(f"{folder}/{root}/releases"))[-1])
            for root in ("cpu", "cuda", "range")
        }
        least, same = compare(found["cpu"], found["cuda"])
        checks.hold(
            f"{table} of {last}: least cosine of CPU and GPU {least:.6f} (0.9995), equal {same:.0%}", least > 0.9995
        )
        least, same = compare(found["cuda"], found["range"])
        checks.hold(f"{table}: backfill beside nights, both on the GPU: equal {same:.2%} (100 %)", same == 1)


def rates(folder: str, device: str) -> None:
    """Users and pins a second of two sizes, by tokens in a batch."""
    rng = np.random.default_rng(0)
    for name, users in (("small", 2048), ("paper", 1024)):
        if name == "paper":
            run("init-model --preset paper --logs world/logs --pins world/pins --out paper --seed 1", folder)
        loaded = load_model(f"{folder}/{name}", device)
        lengths = np.minimum(rng.lognormal(np.log(60), 0.8, users).astype(np.int64) + 1, 256)
        sequences = random_sequences(lengths, loaded.config, rng)
        for budget in (1024, 4096, 16384, 65536):
            encoder = UserEncoder(loaded.user_tower, budget, device)
            encoder.encode(sequences)
            began = time.perf_counter()
            encoder.encode(sequences)
            print(f"     {name}, {budget:6} tokens a batch: {users / (time.perf_counter() - began):8,.0f} users/s")
        pins = rng.normal(size=(100_000, loaded.config.pin_vector_dim)).astype(np.float16)
        for size in (1024, 16384):
            began = time.perf_counter()
            encode_pins(loaded.pin_tower, pins, size)
            print(f"     {name}, {size:6} pins a batch:   {len(pins) / (time.perf_counter() - began):8,.0f} pins/s")


def random_sequences(lengths: np.ndarray, config, rng) -> Sequences:
    """Users of these lengths, with random features."""
    tokens = int(lengths.sum())
    return Sequences(
        user_ids=np.arange(len(lengths)),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        pin_vectors=rng.normal(size=(tokens, config.pin_vector_dim)).astype(np.float16),
        action=rng.integers(0, len(config.action_vocabulary), tokens).astype(np.int32),
        surface=rng.integers(0, len(config.surface_vocabulary), tokens).astype(np.int32),
        timestamp_ms=np.sort(rng.integers(1_780_000_000_000, 1_790_000_000_000, tokens))[::-1].copy(),
        duration_s=rng.exponential(10, tokens).astype(np.float32),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="keep what was made in this folder")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: tries this script itself")
    given = parser.parse_args()
    device, out = given.device, given.out
    if device == "cuda" and not torch.cuda.is_available():
        print("torch sees no CUDA device", file=sys.stderr)
        return 2
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        folder = out or folder
        os.makedirs(folder, exist_ok=True)
        print(torch.cuda.get_device_name() if device == "cuda" else device, "torch", torch.__version__)
        run(f"synth --out world --users 4000 --pins 8000 {DAYS} --seed 1", folder)
        run(
            "training-data --logs world/logs --pins world/pins --start 2026-09-01 --end 2026-10-04 "
            "--evaluation-share 0.3 --out timelines",
            folder,
        )
        for part in (check_training, check_nights):
            try:
                part(folder, device, checks)
            except (RuntimeError, AssertionError, OSError) as error:
                checks.hold(f"{part.__name__}: {error}", False)
        rates(folder, device)
    return bool(checks.failed)


if __name__ == "__main__":
    sys.exit(main())

"""What hnswlib is compiled for: build and search of a graph, and its bytes, in builds for several CPUs.

    .venv/bin/python -m benchmarks.hnswlib_builds [--pins 10000] [--runs 5]

Compiles hnswlib three times (for this CPU, for x86-64-v3, for any CPU), then lets the builds take turns on equal unit
vectors, one thread, in seconds of CPU; printed is the median of the ratios to the build for this CPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata

import numpy as np

BUILDS = {
    "this CPU": {},
    "x86-64-v3": {"HNSWLIB_NO_NATIVE": "1", "CFLAGS": "-march=x86-64-v3", "CXXFLAGS": "-march=x86-64-v3"},
    "any CPU": {"HNSWLIB_NO_NATIVE": "1"},
}
DIMS = (64, 256)

# Runs with one build before all else on its path, since a process loads hnswlib once.
WORK = """
import hashlib, json, sys, time
import hnswlib, numpy as np
from stores.indexes import builder_id

pins, dim, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
vectors = np.random.default_rng(dim).standard_normal((pins + 2000, dim)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
index = hnswlib.Index(space="ip", dim=dim)
index.init_index(pins, M=16, ef_construction=100, random_seed=100)
started = time.process_time()
index.add_items(vectors[:pins], np.arange(pins), num_threads=1)
built = time.process_time()
index.set_ef(128)
index.knn_query(vectors[pins:], k=100, num_threads=1)
searched = time.process_time()
index.save_index(path)
with open(path, "rb") as file:
    digest = hashlib.sha256(file.read()).hexdigest()[:8]
print(json.dumps([built - started, searched - built, digest, builder_id()]))
"""


def compile_into(folder: str, environment: dict[str, str]) -> None:
    source = f"hnswlib=={metadata.version('hnswlib')}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-cache-dir", "--no-binary=hnswlib"]
    subprocess.run([*command, f"--target={folder}", source], check=True, env={**os.environ, **environment})


def measure(folder: str, pins: int, dim: int) -> list:
    """[CPU seconds of building, of searching, digest of the file, name of the build]."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{os.getcwd()}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORK, str(pins), str(dim), f"{folder}/index"]
    return json.loads(subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pins", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number, environment in enumerate(BUILDS.values()):
            compile_into(f"{folder}/{number}", environment)
        for dim in DIMS:
            runs = [[measure(f"{folder}/{n}", given.pins, dim) for n in range(len(BUILDS))] for _ in range(given.runs)]
            seconds = np.array([[found[:2] for found in run] for run in runs])  # [runs, builds, 2]
            ratios = seconds / seconds[:, :1]
            for number, name in enumerate(BUILDS):
                built, searched = np.median(ratios[:, number], axis=0)
                low, high = ratios[:, number].min(axis=0), ratios[:, number].max(axis=0)
                digest, build = runs[0][number][2:]
                print(
                    f"d {dim}, {name}: build {built:.2f} ({low[0]:.2f} to {high[0]:.2f}), "
                    f"search {searched:.2f} ({low[1]:.2f} to {high[1]:.2f}); file {digest}, {build}"
                )


if __name__ == "__main__":
    main()

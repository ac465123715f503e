"""The user tower alone on the slices of a night, in several processes at once: the floor under a night."""

import os
import subprocess
import sys
import time

from benchmarks.measuring import Cost
from benchmarks.night_world import ONE_THREAD, slices_of
from benchmarks.peers.tower import NightInputs
from pinnerformer_model.checkpoint import load_model
from pinnerformer_model.inference import UserEncoder

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def bare_cost(inputs: NightInputs, folder: str, processes: int = 2) -> Cost:
    """What the model takes for all slices of a night, in processes that start at the same moment.

    Every process has its share of the buckets. Reading, joining, imports and loading are not in it, nor is memory.

    Args:
        folder: For a small file.
    """
    path = f"{folder}/bare.json"
    inputs.write(path)
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bare", path, str(part), str(processes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD},
            cwd=HOME,
            text=True,
        )
        for part in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"exit code {process.wait()}: {' '.join(process.args)}; its error is above")
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [process.communicate()[0].split() for process in started]
    return Cost(max(float(wall) for wall, _ in found), sum(float(cpu) for _, cpu in found), 0)


def main() -> int:
    path, part, parts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    inputs = NightInputs.read(path)
    encoder = UserEncoder(load_model(inputs.model).user_tower)
    slices = slices_of(inputs, part, parts)
    if slices:
        encoder.encode(slices[0])  # what a first call allocates
    print("ready", flush=True)
    sys.stdin.readline()
    started, before = time.perf_counter(), time.process_time()
    for sequences in slices:
        encoder.encode(sequences)
    print(time.perf_counter() - started, time.process_time() - before, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

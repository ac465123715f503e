"""The user tower alone on the slices of a night, in several processes at once: the floor under a night."""

import os
import subprocess
import sys
import time

from benchmarks.night_world import ONE_THREAD, slices_of
from benchmarks.peers.tower import NightInputs
from pinnerformer_model.checkpoint import load_model
from pinnerformer_model.inference import UserEncoder

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def bare_seconds(inputs: NightInputs, folder: str, processes: int = 2) -> float:
    """Seconds that the model takes for all slices of a night, in processes that start at the same moment.

    Every process has its share of the buckets. Reading, joining, imports and loading are not in them.

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
    return max(float(process.communicate()[0]) for process in started)


def main() -> int:
    path, part, parts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    inputs = NightInputs.read(path)
    encoder = UserEncoder(load_model(inputs.model).user_tower)
    slices = slices_of(inputs, part, parts)
    if slices:
        encoder.encode(slices[0])  # what a first call allocates
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    for sequences in slices:
        encoder.encode(sequences)
    print(time.perf_counter() - started, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

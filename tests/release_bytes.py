"""Prints the sha256 of every table file of a small world's releases, to compare two versions of the code.

`python -m tests.release_bytes --pinnerformer OTHER/.venv/bin/pinnerformer > before.txt` runs the commands of another
checkout; without the flag, those of this one. Equal output is equal bytes: a chain of nights, the backfill of the same
days, and a night and its follower with root and inputs on S3.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile

import pytest
from pyarrow import fs

from stores.files import Root
from stores.object_stores import file_system
from tests.s3_server import running_s3

SIZES = "--user-buckets=4 --pin-shards=2 --history-length=64"


def run(pinnerformer: str, command: str, folder: str) -> None:
    """Runs one command in a folder; its words go to stderr.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PINNERFORMER_CACHE": f"{folder}/cache"}
    subprocess.run([pinnerformer, *shlex.split(command)], check=True, cwd=folder, env=environment, stdout=sys.stderr)


def digests(name: str, url: str) -> list[str]:
    """`chain release table part rows sha256` of every file that the manifests of a root name."""
    root, lines = Root(url), []
    for release in sorted(root.list("releases")):
        manifest = json.loads(root.read_bytes(f"releases/{release}/manifest.json"))
        for table, entries in sorted(manifest["tables"].items()):
            lines += [f"{name} {release} {table} {e['part']} {e['rows']} {e['checksum']}" for e in entries]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pinnerformer", default="pinnerformer", help="the console script to run")
    program = parser.parse_args().pinnerformer
    if os.sep in program:
        program = os.path.abspath(program)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch, running_s3(patch) as bucket:
        synth = "synth --out world --users 200 --pins 600 --start 2026-11-01 --days 6 --seed 1"
        run(program, synth, folder)
        run(program, "init-model --preset tiny --logs world/logs --pins world/pins --out world/model --seed 1", folder)
        system, path = file_system(bucket)
        fs.copy_files(f"{folder}/world", f"{path}/world", destination_filesystem=system)
        first = "--date 2026-11-04 --bootstrap-from 2026-11-01"
        for name, root, world in (("nights", "root", "world"), ("s3", f"{bucket}/root", f"{bucket}/world")):
            inputs = (
                f"--root {root} --logs {world}/logs --pins {world}/pins --model {world}/model --publish none --quiet"
            )
            for which in (f"{first} {SIZES}", "--date 2026-11-05", "--date 2026-11-06"):
                run(program, f"daily {inputs} {which}", folder)
            print("\n".join(digests(name, root if "://" in root else f"{folder}/{root}")), flush=True)
        inputs = "--root backfilled --logs world/logs --pins world/pins --model world/model --publish none --quiet"
        days = "--start 2026-11-04 --end 2026-11-06 --bootstrap-from 2026-11-01"
        run(program, f"backfill {inputs} {days} {SIZES}", folder)
        print("\n".join(digests("backfill", f"{folder}/backfilled")))


if __name__ == "__main__":
    main()

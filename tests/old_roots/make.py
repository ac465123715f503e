"""Makes an old root for the tests of later versions: `python -m tests.old_roots.make vN`, run on version N itself.

A folder here is never made again by a later version: it is what that version wrote. Beside the root lie what else it
left in the world: the records and values of its key-value store (`kv.json`, hex), the file that `rollback` holds a root
with, timelines, and the model: another machine draws other weights from the same seed.
"""

import json
import os
import shutil
import sys
import tempfile

import lmdb

from pipelines.cli import main
from tests.old_roots import OLD_ROOTS
from tests.worlds import FIRST, day, make_rows, make_vectors, write_file, write_model, write_vectors

USERS, PINS, ROWS, LENGTH = 6, 12, 24, 32


def write_inputs(folder: str, days: int, model: str = "") -> list[str]:
    """Logs of so many days, vectors and a model: the same ones whenever it is called. Returns the flags.

    Args:
        model: The folder of the model; empty: one is made, whose last bits are this machine's.
    """
    for number in range(days):
        rows = make_rows(number, ROWS, USERS, PINS, seed=3)
        write_file(f"{folder}/logs", number, rows[:-4])  # one invalid row is enough: the world is small
    write_vectors(f"{folder}/pins", make_vectors(PINS))
    if model:
        shutil.copytree(model, f"{folder}/model")
    else:
        write_model(f"{folder}/model")
    return [f"--{name}={folder}/{name}" for name in ("logs", "pins", "model")]


def make(out: str) -> None:
    """Two nights, published; a rollback's hold; timelines."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, root, kv = write_inputs(folder, 2), f"{folder}/root", f"{folder}/kv"
        nights = ["daily", f"--root={root}", *inputs, f"--kv=lmdb://{kv}", "--quiet"]
        layout = ["--user-buckets=2", "--pin-shards=1", f"--history-length={LENGTH}"]
        commands = [
            [*nights, f"--date={day(0)}", f"--bootstrap-from={FIRST}", *layout],
            [*nights, f"--date={day(1)}"],
            [
                *("training-data", *inputs, f"--out={folder}/timelines", f"--start={day(0)}", f"--end={day(1)}"),
                *(f"--label-rule={folder}/rule.json", "--buckets=1", "--pin-shards=1", "--evaluation-share=0.3"),
                "--quiet",
            ],
        ]
        with open(f"{folder}/rule.json", "w") as file:
            json.dump({"surfaces": ["home", "search"], "actions": {"repin": 0, "closeup": 10}}, file)
        for command in commands:
            assert main(command) == 0, command
        unread = shutil.ignore_patterns(".lock-*", "progress", "dead_letters", f"daily-{day(0)}-*", "training-data-*")
        shutil.copytree(root, f"{out}/root", ignore=unread)
        shutil.copytree(f"{folder}/timelines", f"{out}/timelines", ignore=unread)
        shutil.copytree(f"{folder}/model", f"{out}/model")
        with lmdb.open(kv, readonly=True) as environment, environment.begin() as transaction:
            content = {bytes(key).hex(): bytes(value).hex() for key, value in transaction.cursor()}
        with open(f"{out}/kv.json", "w") as file:
            json.dump(content, file, indent=1)
        before = set(os.listdir(root))
        assert main(["rollback", f"--root={root}", "--publish=none", "--reason=half of the log was missing"]) == 0
        (hold,) = set(os.listdir(root)) - before
        shutil.copy(f"{root}/{hold}", f"{out}/{hold}")


if __name__ == "__main__":
    make(f"{OLD_ROOTS}/{sys.argv[1]}")

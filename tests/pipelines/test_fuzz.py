"""Damaged roots, logs, vectors and models through the commands themselves: exit 1 to 3, a first line that names it.

`python -m tests.pipelines.test_fuzz 3000` does so many a kind.
"""

import contextlib
import io
import os
import random
import shutil
import sys
import tempfile

import pytest

from pipelines.cli import main
from stores.files import Root
from stores.releases import read_current
from tests.pipelines.nights import World, first_night, make_world, run_night
from tests.stores.test_untrusted_files import mutate
from tests.worlds import day

EACH = int(os.environ.get("PINNERFORMER_FUZZ", "40"))


class Fuzz:
    """A root of two releases with everything it was made of, and the commands that read it without a pipeline."""

    def __init__(self, folder: str):
        self.folder, self.root = folder, f"{folder}/root"
        self.world: World = make_world(folder)
        first_night(self.world, self.root, "--user-buckets=2", "--pin-shards=1")
        run_night(self.world, self.root, 1, "--publish=none")
        manifest = read_current(Root(self.root))
        assert manifest is not None
        files = {table: f"root/{entries[0].path}" for table, entries in manifest.tables.items()}
        inputs = ["--logs", "--pins", "--model"]
        given = [f"{flag}={folder}/{flag[2:]}" for flag in inputs]
        plan = ["plan", f"--root={self.root}", *given, f"--date={day(2)}"]
        verify = ["verify", f"--root={self.root}", *given[1:], "--users=2"]
        status = ["status", f"--root={self.root}"]
        collect = ["gc", f"--root={self.root}", "--dry-run", "--keep=1"]
        words = ["init-model", "--preset=tiny", given[0], f"--out={folder}/made", "--seed=1"]
        # kind -> (file, the commands that read it)
        self.kinds = {
            "manifest": (f"root/releases/{day(1)}/manifest.json", [plan, verify, status, collect]),
            "older manifest": (f"root/releases/{day(0)}/manifest.json", [plan, status, collect]),
            "layout": ("root/layout.json", [plan, verify]),
            "CURRENT": ("root/CURRENT", [plan, verify, status, collect]),
            "erased": ("root/erased", [[*verify[:2], f"--erased={folder}/gone"]]),
            "log file": (f"logs/ds={day(2)}/a.parquet", [plan, words]),
            "vectors": ("pins/vectors.parquet", [plan, verify]),
            "version": ("pins/version.json", [plan]),
            "config": ("model/config.json", [plan, verify]),
            "weights": ("model/model.safetensors", [plan, verify]),
            **{table: (path, [verify]) for table, path in files.items()},
        }
        with open(f"{self.root}/erased", "w") as file:
            file.write("7000\n7001\n")
        shutil.copy(f"{self.root}/erased", f"{folder}/gone")

    def run(self, command: list[str]) -> tuple[int, str]:
        """The exit code and what was said on stderr."""
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = main(command)
        shutil.rmtree(f"{self.folder}/made", ignore_errors=True)
        return code, said.getvalue()

    def damage(self, kind: str, count: int, seed: int) -> tuple[int, list[str]]:
        """How many of some mutations were refused; and what went wrong, in words."""
        name, commands = self.kinds[kind]
        path, dice = f"{self.folder}/{name}", random.Random(f"{kind} {seed}")
        with open(path, "rb") as file:
            sound = file.read()
        refused, problems = 0, []
        for command in commands:
            assert self.run(command)[0] == 0, (command, self.run(command)[1])
        for number in range(count):
            changed = mutate(sound, dice)
            with open(path, "wb") as file:
                file.write(changed)
            command = commands[number % len(commands)]
            try:
                code, said = self.run(command)
            except Exception as error:
                problems.append(f"{kind}, mutation {number}, {command[0]}: {type(error).__name__}: {error}")
                continue
            first = said.splitlines()[0] if said else ""
            refused += code != 0
            if code not in (0, 1, 2, 3):
                problems.append(f"{kind}, mutation {number}, {command[0]}: exit code {code}")
            if code and ("Traceback" in said or not any(word in first for word in (self.folder, "--", "user "))):
                problems.append(f"{kind}, mutation {number}, {command[0]}: names nothing: {said[:300]!r}")
        with open(path, "wb") as file:
            file.write(sound)
        return refused, problems


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory) -> Fuzz:
    return Fuzz(str(tmp_path_factory.mktemp("fuzz")))


KINDS = ["manifest", "older manifest", "layout", "CURRENT", "erased", "log file", "vectors", "version", "config"]
KINDS += ["weights", "histories", "user_embeddings", "pin_embeddings", "indexes", "canaries"]


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_by_name(fuzz, kind):
    assert set(KINDS) == set(fuzz.kinds)
    seed = os.getpid()  # another one every time; said when it finds something
    refused, problems = fuzz.damage(kind, EACH, seed)
    assert not problems, "\n".join([f"seed {seed}:", *problems])
    assert refused > EACH // 4


def run_all(count: int, seed: int) -> int:
    """Mutates every kind of file so often; prints what went wrong."""
    folder = tempfile.mkdtemp(prefix="pinnerformer-fuzz-")
    try:
        fuzz, wrong = Fuzz(folder), 0
        for kind in KINDS:
            refused, problems = fuzz.damage(kind, count, seed)
            print(f"{kind:16} {count:6,} mutations, {refused:6,} refused, {len(problems):,} problems", flush=True)
            print("\n".join(problems[:20]), end="\n" if problems else "")
            wrong += len(problems)
        return 1 if wrong else 0
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(run_all(int(sys.argv[1]), seed=1))

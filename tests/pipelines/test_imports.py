"""What a command loads, looked at in a fresh interpreter: neither Beam, torch nor scipy unless it computes with it."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.pipelines.test_daily import first_night, make_world, run_night
from tests.worlds import day

HEAVY = ("apache_beam", "torch", "scipy", "matplotlib", "grpc")
BESIDE_BEAM = ("pandas", "boto3")
ORDER = HEAVY + BESIDE_BEAM

# Says what is loaded once a command has shown its help, and again once it has done its work.
LOOK = f"""
import contextlib, io, json, sys
from pinnerformer import main

def call(*words):
    sys.argv = ["pinnerformer", *words]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main()
        except SystemExit as ended:
            code = ended.code
    return code, [name for name in {ORDER} if name in sys.modules]

command, *words = sys.argv[1:]
print(json.dumps([call(command, "--help"), call(command, *words)]))
"""


def look(*words: str) -> list[tuple[int, list[str]]]:
    """(exit code, heavy modules that are loaded) after `--help`, and after the command itself."""
    done = subprocess.run([sys.executable, "-c", LOOK, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [(code, loaded) for code, loaded in json.loads(done.stdout)]


def look_for_heavy(*words: str) -> list[tuple[int, list[str]]]:
    """`look`, at `HEAVY` only."""
    return [(code, [name for name in loaded if name in HEAVY]) for code, loaded in look(*words)]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> str:
    """A folder with a root of two releases, a store that serves the second, and a list of users."""
    folder = str(tmp_path_factory.mktemp("served"))
    world, root = make_world(f"{folder}/world"), f"{folder}/root"
    first_night(world, root, "--user-buckets=2", "--pin-shards=1")
    run_night(world, root, 1, f"--kv=lmdb://{folder}/kv")
    with open(f"{folder}/users", "w") as file:
        file.write("3\n")
    return folder


WORK = {
    "status": ["--json"],
    "retrieve": ["--user=0"],
    "verify": ["--users=5"],
    "gc": ["--dry-run"],
    "erase": ["--users=USERS"],
    "rollback": ["--reason=a test"],
    "release": ["--run=RUN"],
}


@pytest.mark.parametrize("command", WORK)
def test_what_is_done_between_nights_needs_neither_beam_nor_torch(command, served, tmp_path):
    for name in ("root", "kv"):
        shutil.copytree(f"{served}/{name}", f"{tmp_path}/{name}")
    (run,) = [name for name in os.listdir(f"{tmp_path}/root/staging") if name.startswith(f"daily-{day(1)}")]
    words = [word.replace("USERS", f"{served}/users").replace("RUN", run) for word in WORK[command]]
    found = look_for_heavy(command, f"--root={tmp_path}/root", f"--kv=lmdb://{tmp_path}/kv", *words)
    assert found == [(0, []), (0, [])]


@pytest.mark.parametrize(("command", "computes_with"), [("train", {"torch"}), ("evaluate", {"torch", "scipy"})])
def test_models_are_made_and_measured_without_beam(command, computes_with, tmp_path):
    """As far as it goes without timelines: everything that it imports is imported by then."""
    flags = {"train": [f"--out={tmp_path}/model"], "evaluate": []}[command]
    (helped, loaded), (failed, loaded_too) = look_for_heavy(command, f"--timelines={tmp_path}/none", *flags)
    assert (helped, failed) == (0, 1)
    assert set(loaded) | set(loaded_too) == computes_with


NIGHT = {
    "here": ([], {"apache_beam", "torch", "grpc"}),
    "engine": (["--runner=FlinkRunner"], {"apache_beam", "torch", "grpc", "pandas", "boto3", "scipy"}),
}


@pytest.mark.parametrize(("flags", "loads"), NIGHT.values(), ids=list(NIGHT))
def test_a_night_loads_of_beam_what_it_uses(flags, loads, tmp_path):
    """As far as it goes without logs: everything that it imports is imported by then."""
    given = [f"--{name}={tmp_path}/{name}" for name in ("root", "logs", "pins", "model")]
    assert look("daily", *given, "--date=2026-11-01", *flags) == [(0, []), (2, sorted(loads, key=ORDER.index))]


def test_a_night_ends_without_pandas(served, tmp_path):
    """pyarrow would load it at the first conversion."""
    world = f"{served}/world"
    given = [f"--{name}={world}/{name}" for name in ("logs", "pins", "model")]
    shutil.copytree(f"{served}/root", f"{tmp_path}/root")
    found = look("daily", f"--root={tmp_path}/root", *given, f"--date={day(2)}", "--publish=none", "--quiet")
    assert found == [(0, []), (0, ["apache_beam", "torch", "grpc"])]


@pytest.mark.parametrize("alone", [True, False])
def test_nothing_is_said_of_what_is_not_installed(alone):
    code = (
        f"from pipelines.launch.lean_imports import import_job as i; i('pipelines.daily_inference', beam_alone={alone})"
    )
    code += "; import logging; logging.warning('said')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "" and done.stderr == "WARNING:root:said\n"

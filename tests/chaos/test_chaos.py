"""Short forms of the chaos suite; `make test-chaos` runs the long one."""

import os
import subprocess
import sys

import pytest


def kill(*flags: str) -> None:
    """Runs the suite with other instants every time; its words name the seed's draws where something differs."""
    command = [sys.executable, "-m", "tests.chaos", "--seed", str(os.getpid()), *flags]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


def test_nights_and_a_backfill_that_are_killed_end_with_the_same_bytes():
    kill("--kills=4", "--scenario=a night", "--scenario=a night, Redis", "--scenario=a backfill")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_runs_of_every_kind_that_are_killed_end_with_the_same_bytes():
    kill("--kills=10")


@pytest.mark.timeout(900)
def test_whatever_is_typed_after_a_kill_the_store_is_what_current_says():
    kill("--pairs=10")

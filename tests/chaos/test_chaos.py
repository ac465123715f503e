"""Short forms of the chaos suite; `make test-chaos` runs the long one."""

import os

import pytest

from tests.warm import run_python

# As `python -m tests.chaos` would, without the start: a fork of a process that has no thread either.
CODE = """
import runpy, sys
sys.argv[0] = "tests.chaos"
runpy.run_module("tests.chaos", run_name="__main__")
"""


def kill(*flags: str) -> None:
    """Runs the suite with other instants every time; its words name the seed's draws where something differs."""
    done = run_python(CODE, "--seed", str(os.getpid()), "--pause=0.02", *flags, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


def test_nights_and_a_backfill_that_are_killed_end_with_the_same_bytes():
    kill("--kills=3", "--scenario=a night", "--scenario=a night, Redis", "--scenario=a backfill")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_runs_of_every_kind_that_are_killed_end_with_the_same_bytes():
    kill("--kills=10")


@pytest.mark.timeout(900)
def test_whatever_is_typed_after_a_kill_the_store_is_what_current_says():
    kill("--pairs=4")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_is_typed_after_many_a_kill_the_store_is_what_current_says():
    kill("--pairs=20")

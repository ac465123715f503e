"""The short form of the chaos suite; `make test-chaos` runs the long one."""

import os
import subprocess
import sys

import pytest


@pytest.mark.timeout(900)
def test_runs_that_are_killed_end_with_the_same_bytes():
    command = [sys.executable, "-m", "tests.chaos", "--kills", "10", "--seed", str(os.getpid())]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]

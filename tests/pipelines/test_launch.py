"""What an operator sees of a pipeline that fails: one line of ours, the engine's words in a file."""

import os
import re
import subprocess
import sys

import apache_beam as beam
import numpy as np
import pytest

from pipelines.arguments import Parser
from pipelines.launch.beam_options import parse_beam_options
from pipelines.launch.run_pipeline import run_pipeline
from stores.errors import InputError, StoreError
from tests.pipelines.nights import make_world
from tests.warm import run_python
from tests.worlds import FIRST, day, make_vectors, write_vectors


def run(fail) -> None:
    options = parse_beam_options(Parser(), [])
    run_pipeline("a-run", options, lambda pipeline: pipeline | beam.Create([1]) | beam.Map(fail))  # type: ignore[func-returns-value]


def kept_logs() -> set[str]:
    folder = os.environ.get("TMPDIR", "/tmp")
    return {name for name in os.listdir(folder) if name.startswith("pinnerformer-a-run-")}


def test_an_error_of_ours_keeps_its_type_and_words_and_leaves_no_log():
    def fail(element):
        raise InputError("file.parquet: is bad; mend it")

    before = kept_logs()
    with pytest.raises(InputError, match=r"^file.parquet: is bad; mend it$"):
        run(fail)
    assert kept_logs() == before


def test_an_error_of_nobodys_names_the_log_that_has_its_trace():
    def fail(element):
        os.write(2, b"words of a worker\n")
        return 1 // (element - 1)

    with pytest.raises(StoreError, match="a worker failed: .*ZeroDivisionError") as caught:
        run(fail)
    (path,) = re.findall(r"its trace is in (\S+),", str(caught.value))
    with open(path) as file:
        log = file.read()
    os.unlink(path)
    assert "words of a worker" in log and "ZeroDivisionError" in log


WORKERS = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@pytest.mark.parametrize("mode", [[], pytest.param(WORKERS, marks=pytest.mark.slow)], ids=["in-process", "workers"])
def test_the_first_line_on_the_screen_is_ours(tmp_path, mode):
    """Beam logs a trace before the command can speak, and its worker processes chat on their way up."""
    world = make_world(str(tmp_path))
    write_vectors(f"{tmp_path}/pins", {**make_vectors(5), -1: np.ones(256, np.float16)})
    flags = [f"--root={tmp_path}/root", *world.inputs, f"--date={day(0)}", f"--bootstrap-from={FIRST}"]
    command = [sys.executable, "-m", "pipelines.cli", "daily", *flags, "--publish=none", *mode]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(
        r"(pinnerformer daily: loading [\w ]+\n)?(\d+ workers?: .*\n)?"
        r"pinnerformer daily: \S+vectors.parquet: row \d+ \(pin_id -1\): pin_id is negative; .*\n",
        done.stderr,
    ), done.stderr


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "start",
    [pytest.param("", marks=pytest.mark.slow), "signal.signal(signal.SIGINT, signal.SIG_IGN)"],
    ids=["in the foreground", "in the background"],
)
def test_a_worker_process_that_is_killed_ends_the_run_soon(start):
    """As when memory runs out; left to itself the local runner may wait for it forever.

    Started by a script with `&`, a command ignores SIGINT.
    """
    code = """
import os, signal
import apache_beam as beam
from pipelines.arguments import Parser
from pipelines.launch.beam_options import parse_beam_options
from pipelines.launch.run_pipeline import run_pipeline
from stores.errors import StoreError

START
def die(element):
    os.kill(os.getpid(), signal.SIGKILL)

options = parse_beam_options(Parser(), ["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
try:
    run_pipeline("a-run", options, lambda pipeline: pipeline | beam.Create([1]) | beam.Map(die))
except StoreError as error:
    print(error, flush=True)
os._exit(0)
"""
    done = run_python(code.replace("START", start))
    assert re.match(r"a worker (process died|failed)", done.stdout), done.stdout + done.stderr[-3000:]
    assert "nothing was released" in done.stdout.splitlines()[0]

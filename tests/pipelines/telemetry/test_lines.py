"""`--log-format json`: one object a line on stderr, whoever wrote what stands there."""

import json
import os
import subprocess
import sys

import pytest

from pipelines.telemetry.facts import begin
from pipelines.telemetry.lines import ALWAYS, JSON, Scribe, is_json, lines_of, say

# A command in which everything is said that can be said: by us, by a library, past Python, by a process of ours, by an
# error nobody expected.
LOUD = """
import logging, os, subprocess, sys
import pipelines.operations.status as status
from pinnerformer import main
from pipelines.telemetry.facts import facts
from pipelines.telemetry.lines import say

def loud(words):
    facts().run = "run-1"
    say("100 % of a stage", stage="embed_users", units=3)
    print("printed", file=sys.stderr)
    os.write(2, b"WARNING: of C++ \\xff\\x1b[31m\\n")
    logging.getLogger("a.library").error("it broke", exc_info=ValueError("why"))
    subprocess.run([sys.executable, "-S", "-c", "1 / 0"])
    os.write(2, b"no end of line")
    raise KeyError("nobody\\nexpected this")

status.main = loud
sys.argv = ["pinnerformer", "status", "--root=x", "--log-format", "json"]
sys.exit(main())
"""


def test_nothing_that_reaches_stderr_passes_by_the_form():
    done = subprocess.run([sys.executable, "-c", LOUD], capture_output=True, cwd=os.getcwd())
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1 and done.stdout == b""
    assert all(list(line)[: len(ALWAYS)] == list(ALWAYS) for line in lines)
    assert {line["command"] for line in lines} == {"status"} and {line["run"] for line in lines} == {"run-1"}
    first, printed, raw, library, process, cut, last = lines
    assert (first["message"], first["stage"], first["units"]) == ("100 % of a stage", "embed_users", 3)
    assert (printed["message"], printed["level"], printed["stage"]) == ("printed", "info", None)
    assert (raw["message"], raw["level"]) == ("WARNING: of C++ \\xff\x1b[31m", "warning")
    assert library["level"] == "error" and "ValueError: why" in library["exc_info"]
    assert process["message"].startswith("ZeroDivisionError") and "Traceback" in process["exc_info"]
    assert cut["message"] == "no end of line"
    assert last["level"] == "error" and "Traceback" in last["exc_info"] and "nobody\\nexpected" in last["message"]


def test_text_stays_what_it_was(capfd):
    begin("status", quiet=False)
    say("a line", stage="x", units=3)
    assert capfd.readouterr().err == "a line\n" and not is_json()


def test_the_form_is_that_of_the_command_and_ends_with_it(capfd):
    begin("gc", quiet=False)
    with lines_of(JSON):
        say("one", stage=None)
        os.write(2, b"two\n")
    say("three")
    one, two, three = filter(None, capfd.readouterr().err.splitlines())  # sys.stderr is no descriptor 2 here
    assert json.loads(one)["message"] == "one" and json.loads(two)["message"] == "two" and three == "three"


@pytest.mark.parametrize(
    ("lines", "made"),
    [
        ([b"", b"  "], []),
        ([b"{not json"], ["{not json"]),
        ([b'{"time": 1}'], ['{"time": 1}']),  # an object, but not one of ours
        ([b"Traceback (most recent call last):", b"  File x", b"    y", b"E: z", b"then"], ["E: z", "then"]),
        ([b"Traceback (most recent call last):", b"  cut"], ["  cut"]),
    ],
)
def test_lines_of_others(lines, made):
    scribe = Scribe("daily")
    found = [one for line in lines for one in scribe.take(line)] + scribe.finish()
    assert [json.loads(one)["message"] for one in found] == made

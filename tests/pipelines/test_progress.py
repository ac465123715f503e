"""How far a run is: which stages are done, how long the rest takes, and the lines that say it where nobody watches."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import pytest

from pipelines.launch.progress import Progress
from pipelines.launch.stages import ProgressLog, Work, duration, seconds_left, stages_of
from pipelines.planning.rates import Rates
from pipelines.telemetry.facts import begin
from stores.files import Root
from stores.names import Step
from tests.worlds import day
from transforms.run import RunFolder

NIGHT = Work(
    units={Step.READ_LOGS: 100, Step.EMBED_PINS: 50},
    tasks={Step.UPDATE_HISTORIES: 4, Step.MERGE_SNAPSHOT: 4, Step.EMBED_PINS: 2, Step.FINISH: 1},
    seconds={Step.READ_LOGS: 1.0, Step.UPDATE_HISTORIES: 1.0, Step.EMBED_USERS: 6.0, Step.EMBED_PINS: 2.0},
    wall_s=10.0,
)


def stages(units: dict, tasks: dict, work: Work = NIGHT, **more) -> dict:
    log = ProgressLog("nowhere")
    log.units.update(units)
    log.tasks.update(tasks)
    return {stage.step: stage for stage in stages_of(log, work, **more)}


def test_a_stage_is_done_when_its_tasks_are_whatever_its_units():
    """Nobody knows how many active users there will be: with the last bucket the stage is over."""
    before = stages({Step.UPDATE_HISTORIES: 30}, {Step.UPDATE_HISTORIES: 3})[Step.UPDATE_HISTORIES]
    assert not before.done and before.share == 0.75 and before.total is None
    after = stages({Step.UPDATE_HISTORIES: 40}, {Step.UPDATE_HISTORIES: 4})[Step.UPDATE_HISTORIES]
    assert after.done and after.share == 1.0 and after.counted == "40 active users"
    none = stages({}, {Step.UPDATE_HISTORIES: 4})[Step.UPDATE_HISTORIES]
    assert none.done and none.counted == "0 active users"


def test_reading_is_done_with_the_last_row_or_when_histories_begin():
    assert stages({Step.READ_LOGS: 99}, {Step.READ_LOGS: 1})[Step.READ_LOGS].counted == "99 of 100 rows"
    assert stages({Step.READ_LOGS: 100}, {Step.READ_LOGS: 2})[Step.READ_LOGS].done
    assert stages({Step.READ_LOGS: 40}, {Step.READ_LOGS: 1, Step.UPDATE_HISTORIES: 1})[Step.READ_LOGS].done


def test_users_are_embedded_when_the_snapshot_begins_and_of_a_backfill_when_it_is_done():
    units, tasks = {Step.EMBED_USERS: 3}, {Step.EMBED_USERS: 1, Step.MERGE_SNAPSHOT: 1}
    assert stages(units, tasks)[Step.EMBED_USERS].done
    backfill = Work(tasks=NIGHT.tasks, interleaved=True)
    assert not stages(units, tasks, backfill)[Step.EMBED_USERS].done
    assert stages(units, {**tasks, Step.MERGE_SNAPSHOT: 4}, backfill)[Step.EMBED_USERS].done


def test_how_many_are_embedded_is_known_when_histories_are_done():
    units, tasks = {Step.UPDATE_HISTORIES: 8, Step.EMBED_USERS: 2}, {Step.UPDATE_HISTORIES: 4}
    assert stages(units, tasks)[Step.EMBED_USERS].share == 0.25


def test_the_end_of_a_run_is_the_end_of_all_its_stages():
    assert stages({Step.JOIN_VECTORS: 5}, {}, ended=True)[Step.JOIN_VECTORS].done


def test_releases_and_the_pace_so_far_say_how_long_the_rest_takes():
    done = list(stages({Step.READ_LOGS: 100, Step.EMBED_PINS: 50}, {Step.READ_LOGS: 1}).values())
    share, left_s = seconds_left(done, dataclasses.replace(NIGHT, wall_s=None), 6.0)
    assert share == pytest.approx(0.3) and left_s == pytest.approx(14.0)  # 3 of 10 parts in 6 s
    _, left_s = seconds_left(done, NIGHT, 6.0)
    assert left_s == pytest.approx(0.7 * 7.0 + 0.3 * 14.0)  # releases say 7 s for the rest
    assert seconds_left([], NIGHT, 2.0) == (0.0, 8.0)  # nothing is done: as releases tell
    assert seconds_left(done, Work(units=NIGHT.units), 6.0) is None  # nothing tells


def test_a_process_that_loads_is_not_taken_for_the_pace():
    begun = list(stages({Step.READ_LOGS: 50}, {Step.READ_LOGS: 1}).values())
    share, left_s = seconds_left(begun, NIGHT, 6.0)
    assert share == pytest.approx(0.05) and left_s < 6.0 + NIGHT.wall_s


def test_durations():
    said = [duration(s) for s in (0.44, 9.94, 9.96, 59.4, 59.6, 3599, 3600, 7500)]
    assert said == ["0.4 s", "9.9 s", "10 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "2 h 5 min"]


def test_work_by_step_adds_up_to_the_work():
    rates = Rates(active_per_row=1.0, tokens_per_user=1.0, user_s=2.0, row_s=3.0, pin_s=4.0)
    by_step = rates.work_by_step(5, 7, 9, None)
    assert sum(of for step, of in by_step.items() if step != Step.FINISH) == pytest.approx(rates.work_s(5, 7, 9))
    assert by_step[Step.READ_LOGS] == pytest.approx(7.0) and by_step[Step.FINISH] > 0


def run_with(run: RunFolder, noted: list[tuple[Step, int]], **settings) -> None:
    with Progress(run, NIGHT, **settings):
        for step, units in noted:
            run.note_progress(step, units)
            time.sleep(0.4)


def test_a_line_a_stage_and_none_twice(tmp_path, capsys):
    begin("daily", quiet=False)
    run = RunFolder(Root(str(tmp_path)), "daily-x")
    run_with(run, [(Step.READ_LOGS, 60), (Step.READ_LOGS, 40), *[(Step.UPDATE_HISTORIES, 2)] * 4, (Step.FINISH, 1)])
    said = [line.partition("] ")[2].partition(" in ")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == ["read logs: 100 rows", "update histories: 8 active users", "check, commit, publish: 1 release"]


def test_a_long_stage_breaks_the_silence(tmp_path, capsys):
    begin("daily", quiet=False)
    run = RunFolder(Root(str(tmp_path)), "daily-x")
    run_with(run, [(Step.READ_LOGS, 60)] * 1, silent_s=0.1)
    first = capsys.readouterr().err.splitlines()[0]
    assert "read logs 60 of 100 rows; about" in first or "no worker of this machine is at a stage" in first


def test_what_a_failed_run_did_not_finish_is_not_said_to_be_done(tmp_path, capsys):
    begin("daily", quiet=False)
    run = RunFolder(Root(str(tmp_path)), "daily-x")
    with pytest.raises(ZeroDivisionError), Progress(run, NIGHT):
        run.note_progress(Step.READ_LOGS, 60)
        raise ZeroDivisionError
    assert capsys.readouterr().err == ""


def test_a_line_that_is_being_written_is_left_for_later(tmp_path):
    line = json.dumps({"step": "read_logs", "units": 5, "tasks": 1}) + "\n"
    (tmp_path / "a.jsonl").write_text(line + line[:9])
    log = ProgressLog(str(tmp_path))
    log.update()
    assert log.units[Step.READ_LOGS] == 5
    (tmp_path / "a.jsonl").write_text(line + line)
    log.update()
    assert log.units[Step.READ_LOGS] == 10


# The run's own stderr is in place when the bars begin, as it is now and then by itself.
LATE_BARS = """
import sys, time
from pipelines.cli import main
from pipelines.launch.progress import Bars

begin = Bars.__enter__
Bars.__enter__ = lambda self: time.sleep(0.5) or begin(self)
sys.exit(main(sys.argv[1:]))
"""


def test_a_night_on_a_terminal_draws_bars_and_ends_well(one_night):
    world, root = one_night
    flags = [f"--root={root}", *world.inputs, f"--date={day(1)}", "--publish=none", "--workers=1"]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    command = [sys.executable, "-c", LATE_BARS, "daily", *flags]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs) as night:
        os.close(theirs)
        drawn = b""
        with contextlib.suppress(OSError):  # EIO: whoever had the terminal has ended
            while more := os.read(ours, 1 << 16):
                drawn += more
    os.close(ours)
    screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode())
    assert night.returncode == 0, screen
    assert "100%" in screen and "build indexes" in screen
    assert screen.rstrip().endswith("report.html")  # of the summary, whose lines come last

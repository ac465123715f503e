"""Commands that tell: of a bad night, of an alarm; and that what tells never changes how a command ends."""

import json
import os

import pytest

from pipelines.cli import main
from pipelines.telemetry.metrics_file import read_metrics
from pipelines.telemetry.watch import flags_in, wanted_of
from tests.old_roots import OLD_ROOTS
from tests.pipelines.telemetry.listening import listening
from tests.worlds import day

STATUS = ["status", f"--root={OLD_ROOTS}/v1/root"]
IMPOSSIBLE = "max_users_alike: 0.001\n"


def test_a_refused_night_tells_everybody(one_night, tmp_path, capfd, monkeypatch):
    world, root = one_night
    (tmp_path / "gates.yaml").write_text(IMPOSSIBLE)
    words = ["daily", f"--root={root}", *world.inputs, f"--date={day(1)}", "--publish=none"]
    told = [f"--metrics-file={tmp_path}/night.prom", f"--openlineage={tmp_path}/ol.jsonl", "--log-format=json"]
    with listening() as server:
        monkeypatch.setenv("HOOK", f"{server.url}/hunter2")
        code = main([*words, f"--gates={tmp_path}/gates.yaml", "--notify=env:HOOK", *told])
    assert code == 3
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line]
    last = lines[-1]
    assert (last["level"], last["exit_code"], last["release"]) == ("error", 3, str(day(1)))
    (gate,) = [gate["name"] for gate in last["gates"]]
    assert "alike" in gate and last["run"].startswith("daily-")
    ended = {line["stage"]: line["units"] for line in lines if line.get("done")}
    assert ended["read_logs"] == 272 and {"embed_users", "merge_snapshot", "build_indexes", "finish"} <= set(ended)
    ((path, body),) = server.heard
    assert path == "/hunter2" and (body["event"], body["exit_code"], body["release"]) == ("refused", 3, str(day(1)))
    assert body["gates"][0]["name"] == gate and body["run"] == last["run"]
    found = {
        (one.name, one.labels.get("gate", one.labels.get("alarm", ""))): one.value
        for one in read_metrics(f"{tmp_path}/night.prom")
    }
    assert found["run_exit_code", ""] == 3 and found["run_gate_refused", gate] == 1
    assert found["alarm", "refused"] == 1 and found["release_users", ""] > 0
    with open(f"{tmp_path}/ol.jsonl") as file:
        start, end = map(json.loads, file)
    assert (start["eventType"], end["eventType"]) == ("START", "FAIL")


def test_an_alarm_is_told(tmp_path):
    with listening() as server:
        assert main([*STATUS, "--max-age=1h", f"--notify={server.url}/a", f"--notify={server.url}/b"]) == 1
    assert [path for path, _ in server.heard] == ["/a", "/b"]
    body = server.heard[0][1]
    assert body["event"] == "alarm" and "too_old" in [alarm["name"] for alarm in body["alarms"]]


def test_a_command_that_cannot_be_read_is_told_as_failed(capsys):
    with listening() as server:
        assert main(["status", "--no-such-flag", f"--notify={server.url}"]) == 2
    assert server.heard[0][1]["error"].startswith("unknown flag --no-such-flag")


def test_what_goes_wrong_in_telling_is_said_and_changes_nothing(tmp_path, capsys):
    os.makedirs(f"{tmp_path}/night.prom")  # no file can be put there
    with listening() as server:
        gone = server.url
    told = [
        f"--metrics-file={tmp_path}/night.prom",
        f"--openlineage={tmp_path}/none/ol.jsonl",
        f"--notify={gone}/hunter2",
    ]
    assert main([*STATUS, *told]) == 0
    assert main([*STATUS, "--max-age=1h", *told]) == 1
    said = capsys.readouterr().err
    for flag in ("--metrics-file", "--openlineage", "--notify"):
        assert f"warning: {flag}" in said
    assert "hunter2" not in said and "Traceback" not in said


def test_a_url_that_is_none_is_wrong_use(capsys):
    assert main([*STATUS, "--notify=hooks.example.com/hunter2"]) == 2
    assert "hunter2" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plan", "retrieve"])
def test_commands_that_only_look_have_no_such_flag(command, capsys):
    assert main([command, "--metrics-file=x"]) == 2


def test_flags_are_read_off_the_words():
    words = ["--root", "a", "--kv=x", "--kv", "y", "z", "--quiet", "--notify=http://h"]
    assert flags_in(words)["kv"] == ("x", "y", "z") and flags_in(words)["quiet"] == ()
    assert wanted_of(words).root == "a" and wanted_of(words).notify == ("http://h",)

"""Commands as they are typed, with a file of flags beside them: a whole night, what is refused, what is shown."""

import json
import os
import pty
import shutil
import subprocess
import sys

import pytest

from pipelines.cli import COMMANDS, main
from pipelines.configuration.completion import whole_parser
from pipelines.configuration.flags import BEAM
from pipelines.configuration.parsers import all_parsers
from stores.files import Root
from stores.manifests import read_manifest
from tests.pipelines.nights import LENGTH
from tests.pipelines.test_imports import HEAVY
from tests.worlds import FIRST, day

NIGHT = f"""\
root: made/root
logs: logs
pins: pins
model: model
kv: lmdb://made/kv
bootstrap-from: {FIRST}
history-length: {LENGTH}
user-buckets: 4
pin-shards: 2
quiet: true
columns: {{surface: surface}}
daily:
  publish: store
status:
  max-age: 999999d
beam:
  direct_num_workers: 1
"""


def test_a_night_from_a_file_alone_is_the_night_of_its_flags(one_night, tmp_path, monkeypatch, capsys):
    """The root of `one_night` was made by flags; the file lies beside the inputs, and the command runs elsewhere."""
    (tmp_path / "pinnerformer.yaml").write_text(NIGHT)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("PINNERFORMER_CONFIG", "../pinnerformer.yaml")
    assert main(["daily", f"--date={day(0)}"]) == 0
    made, flagged = (read_manifest(Root(str(tmp_path / root)), str(day(0))) for root in ("made/root", "root"))
    assert made.tables == flagged.tables and made.rows("user_embeddings") > 0
    assert main(["status"]) == 0  # the store beside the file serves it, and it is not too old
    assert str(day(0)) in capsys.readouterr().out
    assert main(["plan", f"--date={day(1)}"]) == main(["gc", "--dry-run"]) == 0
    assert main(["verify", "--users=5"]) == 0
    assert os.listdir(tmp_path / "elsewhere") == []


def test_the_nearer_layer_wins_in_a_real_command(tmp_path, monkeypatch, capsys):
    """The error of each command says which root it looked for."""
    monkeypatch.chdir(tmp_path)

    def root_of(*typed: str) -> str:
        assert main(["status", *typed]) == 1
        return capsys.readouterr().err.partition(": ")[2].split()[1].rstrip(":")

    (tmp_path / "pinnerformer.yaml").write_text("root: of-file\n")
    assert root_of() == f"{tmp_path}/of-file"
    (tmp_path / "pinnerformer.yaml").write_text("root: of-file\nstatus: {root: of-section}\n")
    assert root_of() == f"{tmp_path}/of-section"
    monkeypatch.setenv("PINNERFORMER_ROOT", "of-environment")
    assert root_of() == f"{tmp_path}/of-environment"
    monkeypatch.setenv("PINNERFORMER_STATUS_ROOT", "of-command")
    assert root_of() == f"{tmp_path}/of-command"
    assert root_of("--root=of-flag") == f"{tmp_path}/of-flag"


def test_an_error_says_where_a_flag_stands_that_it_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pinnerformer.yaml").write_text("logs: none\ninit-model:\n  out: model\n")
    assert main(["init-model"]) == 1
    assert capsys.readouterr().err.endswith(" (--logs: pinnerformer.yaml:1)\n")
    monkeypatch.setenv("PINNERFORMER_LOGS", "none")
    assert main(["init-model"]) == 1
    assert capsys.readouterr().err.endswith(" (--logs: PINNERFORMER_LOGS)\n")
    assert main(["init-model", "--logs=none"]) == 1
    assert "pinnerformer.yaml" not in capsys.readouterr().err


def test_what_a_file_may_not_say_ends_a_command_before_it_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pinnerformer.yaml").write_text("root: root\nsynth:\n  users: many\n")
    synth = ["synth", "--out=w", "--pins=5", "--start=2026-11-01", "--days=1"]
    assert main(synth) == 2
    said = "pinnerformer synth: pinnerformer.yaml:3: synth.users: 'many' is not a positive whole number\n"
    assert capsys.readouterr().err == said
    assert main([*synth, "--config=none"]) == 2
    assert "the following arguments are required: --users" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["pinnerformer.yaml"]
    assert main(["status", "--root=x"]) == 1  # what another command's section says wrong is not its concern
    assert main(["config"]) == 2  # which looks at every section
    assert capsys.readouterr().err.endswith("synth.users: 'many' is not a positive whole number\n")


def test_config_shows_every_value_and_where_it_comes_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = "root: root\nkv: redis://h/0\ndaily:\n  lookback: 3\n  quiet: true\nbeam: {direct_num_workers: 2}\n"
    (tmp_path / "pinnerformer.yaml").write_text(text)
    monkeypatch.setenv("PINNERFORMER_KV", "redis://:hunter2@h/0")
    monkeypatch.setenv("PINNERFORMER_LOOKBAK", "3")
    words = ["--date", "2026-11-05", "--quiet=false", "--direct_running_mode=multi_processing"]
    assert main(["config", "--json", "daily", *words]) == 0
    found = {row["flag"]: (row["value"], row["origin"]) for row in json.loads(capsys.readouterr().out)["flags"]}
    assert found["--root"] == (f"{tmp_path}/root", "pinnerformer.yaml:1")
    assert found["--kv"] == ("redis://:***@h/0", "PINNERFORMER_KV")
    assert found["--lookback"] == ("3", "pinnerformer.yaml:4")
    assert found["--date"] == ("2026-11-05", "flag")
    assert found["--quiet"] == ("false", "flag")
    assert found["--min-age"] == ("6h", "default")
    assert found["--user-buckets"] == ("by the rows of the first release", "default")
    assert found["--logs"] == ("", "missing")
    assert found["--detach"] == ("false", "default")
    assert found["--direct_num_workers"] == ("2", "pinnerformer.yaml:6")
    assert found["--direct_running_mode"] == ("multi_processing", "flag")
    own = {name for name in all_parsers()["daily"]._option_string_actions if name.startswith("--")}
    assert set(found) == own - {"--help", "--config"} | {"--direct_num_workers", "--direct_running_mode"}
    assert main(["config", "--set", "status"]) == 0
    out, err = capsys.readouterr()
    assert out.split() == [
        *("file", "pinnerformer.yaml"),
        *("--root", f"{tmp_path}/root", "pinnerformer.yaml:1"),
        *("--kv", "redis://:***@h/0", "PINNERFORMER_KV"),
    ]
    assert err == "PINNERFORMER_LOOKBAK: in the environment, and no flag of any command\n"
    monkeypatch.setenv("PINNERFORMER_BEAM_S3_SECRET_ACCESS_KEY", "hunter2")
    assert main(["config", "--set", "daily", "--s3_session_token", "hunter2", "--kv=redis://u:hunter2@h"]) == 0
    out, err = capsys.readouterr()
    assert "hunter2" not in out + err and "--s3_session_token" in out and "--s3_secret_access_key" in out
    assert main(["config", "daily", "--lookbak=3"]) == 2
    assert "unknown flag --lookbak; did you mean --lookback?" in capsys.readouterr().err
    assert main(["config", "dayly"]) == 2
    assert "no command 'dayly'; did you mean daily?" in capsys.readouterr().err


def test_config_without_a_command_reads_the_file_for_all(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["config"]) == 0
    assert capsys.readouterr().out.startswith("no file: there is no pinnerformer.yaml here")
    (tmp_path / "x.yaml").write_text("root: root\ntrain: {steps: 5}\ngc:\n  kv: \n")
    assert main(["config", "--config", "x.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "file x.yaml"
    assert [line.split()[:3] for line in lines[2:]] == [["--kv", "(taken", "back)"], ["--steps", "5", "x.yaml:2"]]
    assert lines[1].split()[:3] == ["--root", f"{tmp_path}/root", "x.yaml:1"]
    (tmp_path / "x.yaml").write_text("train: {steps: 5, preset: demo}\n")  # two in a line
    assert main(["config", "--config=x.yaml"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["--steps", "--preset"]
    (tmp_path / "x.yaml").write_text("train: {stps: 5}\n")
    assert main(["config", "--config=x.yaml"]) == 2
    assert "x.yaml:1: train.stps: no flag --stps of pinnerformer train; did you mean steps?" in capsys.readouterr().err


def test_init_looks_at_the_data_and_writes_a_file_that_is_understood(one_night, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--logs=logs", f"--pins={tmp_path}/pins", "--kv=env:KV"]) == 0
    said = capsys.readouterr().out
    assert f"pinnerformer daily --date {day(4)}" in said and "init-model" not in said  # the model is there
    text = (tmp_path / "pinnerformer.yaml").read_text()
    assert f"# 5 partitions, {day(0)} to {day(4)}" in text and "# version " in text
    assert max(map(len, text.splitlines())) <= 120
    assert main(["config", "--json"]) == 0
    found = {row["flag"]: row["value"] for row in json.loads(capsys.readouterr().out)["flags"]}
    named = {f"--{name}": f"{tmp_path}/{name}" for name in ("logs", "pins", "model", "root")}
    assert found == {**named, "--kv": "env:KV", "--bootstrap-from": str(FIRST)}
    before = text.replace("\n# ", "\n#  ")
    (tmp_path / "pinnerformer.yaml").write_text(before)
    assert main(["init", "--logs=logs"]) == 2
    assert "pinnerformer.yaml: is there already; change it, name another with --config, or --force" in (
        capsys.readouterr().err
    )
    assert (tmp_path / "pinnerformer.yaml").read_text() == before
    assert main(["init", "--force", "--logs=logs", "--pins=pins", "--kv=env:KV"]) == 0
    assert (tmp_path / "pinnerformer.yaml").read_text() == text


def test_what_init_writes_as_comments_can_be_taken_in(tmp_path, monkeypatch, capsys):
    """Every commented setting, at the value that is in force without it, is understood."""
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    said = capsys.readouterr().out
    assert "item-vectors" in said and "--content" in said and "init-model --out model" in said
    lines = (tmp_path / "pinnerformer.yaml").read_text().splitlines()
    start = lines.index("# More of them, with what is in force without:") + 1
    taken = [line.removeprefix("# ") if line.startswith("# ") and ":" in line else line for line in lines[start:]]
    taken = [line for line in taken if not line.startswith(("Fixed when", "Flags of one"))]
    (tmp_path / "pinnerformer.yaml").write_text("\n".join(taken))
    assert main(["config", "--json"]) == 0
    found = {row["flag"]: row["value"] for row in json.loads(capsys.readouterr().out)["flags"]}
    assert found["--min-age"] == "6h" and found["--rewritten-partitions"] == "refuse"
    assert found["--direct_num_workers"] == "2" and found["--max-age"] == "30h" and len(found) >= 14


def test_init_guesses_how_columns_are_called_and_what_is_missing(tmp_path, monkeypatch, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.chdir(tmp_path)
    os.makedirs("events/ds=2026-11-01")
    os.makedirs("events/ds=2026-11-03")
    os.makedirs("vectors")
    log = {"userId": [1], "sku": [2], "event_time": [3], "duration_ms": [4]}
    pq.write_table(pa.table(log), "events/ds=2026-11-01/a.parquet")  # the newest partition is empty
    pq.write_table(pa.table({"item_id": [2], "embedding": [[0.5]]}), "vectors/a.parquet")
    assert main(["init", "--logs=events", "--pins=vectors", "--config=conf/p.yaml"]) == 0
    text = (tmp_path / "conf" / "p.yaml").read_text()
    assert "not every day between; 2 without _SUCCESS" in text and "no version.json yet" in text
    capsys.readouterr()
    assert main(["config", "--config=conf/p.yaml", "--json", "--set", "daily"]) == 0
    found = {row["flag"]: row["value"] for row in json.loads(capsys.readouterr().out)["flags"]}
    columns = "user_id=userId pin_id=sku timestamp_ms=event_time vector=embedding pins.pin_id=item_id"
    assert found["--column"] == columns and found["--absent"] == "action surface duration_s"
    assert found["--root"] == f"{tmp_path}/conf/root" and found["--logs"] == f"{tmp_path}/events"
    assert found["--kv"] == f"lmdb://{tmp_path}/conf/kv"
    assert main(["init", "--force", "--kv=redis://:hunter2@h/0"]) == 2
    assert "hunter2" not in capsys.readouterr().err


def test_init_asks_on_a_terminal(one_night, tmp_path):
    """What no flag says is asked for; an answer of nothing takes what stands in brackets."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pinnerformer", "init", "--pins=pins"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    asked = subprocess.Popen(command, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    os.write(ours, b"logs\n\nroots/today\n\n")
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # its end of the terminal is closed
        pass
    assert asked.wait(60) == 0, said
    assert b"engagement logs" in said and b"[model]: " in said and b"vectors of the pins" not in said
    text = (tmp_path / "pinnerformer.yaml").read_text()
    assert all(f"\n{line}\n" in text for line in ("logs: logs", "model: model", "root: roots/today", "kv: lmdb://kv"))


def test_help_of_every_command_and_completions_load_nothing_to_compute_with():
    code = f"""
import contextlib, io, sys
from pipelines.cli import COMMANDS, main
with contextlib.redirect_stdout(io.StringIO()):
    for command in COMMANDS:
        try:
            main([command, "--help"])
        except SystemExit as ended:
            assert ended.code == 0
    assert main(["completion", "bash"]) == main(["completion", "zsh"]) == main(["config", "train"]) == 0
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_help_says_that_flags_can_stand_in_a_file(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert ("--config FILE" in capsys.readouterr().out) == (command != "completion")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["da"], "daily"),
        (["daily", "--look"], "--lookback"),
        (["daily", "--join", ""], "auto broadcast shuffle"),
        (["init-model", "--preset", "ti"], "tiny"),
        (["completion", ""], "bash zsh"),
        (["rollback", "--unp"], ""),  # what is hidden is not offered
    ],
)
def test_a_shell_is_offered_commands_flags_and_values(typed, offered, tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    words = " ".join(f"'{word}'" for word in ["pinnerformer", *typed])
    before = typed[-2] if len(typed) > 1 else "pinnerformer"
    ask = f"""
source ./script
COMP_WORDS=({words}); COMP_CWORD={len(typed)}
_shtab_pinnerformer pinnerformer '{typed[-1]}' '{before}'
printf '%s\\n' "${{COMPREPLY[@]}}" | sort | tr '\\n' ' '
"""
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == offered.split(), done.stderr


def test_completions_for_zsh_know_every_command_and_say_what_flags_are_for(capsys):
    assert list(whole_parser()._subparsers._group_actions[0].choices) == list(COMMANDS)
    assert main(["completion", "zsh"]) == 0
    said = capsys.readouterr().out
    assert all(command in said for command in COMMANDS)
    assert '"--lookback[partitions searched for late files (default 7)]:DAYS:"' in said
    if shutil.which("zsh"):
        assert subprocess.run(["zsh", "-n"], input=said, text=True).returncode == 0


def test_completions_without_their_package_say_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "the package shtab is not installed: pip install shtab" in capsys.readouterr().err


def test_the_file_that_the_page_shows_is_understood(tmp_path, capsys):
    with open("docs/configuration.md") as file:
        shown = file.read().partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "shown.yaml").write_text(shown)
    assert main(["config", "--json", f"--config={tmp_path}/shown.yaml"]) == 0
    found = json.loads(capsys.readouterr().out)["flags"]
    values = sum(line.startswith(" ") or ": " in line for line in shown.splitlines() if not line.startswith("#"))
    assert len(found) == values >= 20  # a line a value
    keys = {line.split(":")[0] for line in shown.splitlines() if line and line[0] not in " #"}
    assert {"root", "daily", "gc", "train", BEAM} <= keys

"""The crontabs and systemd's units: what the scheduler makes of them, and every line of them run."""

import datetime
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipelines.cli import main
from pipelines.configuration.layers import resolve
from pipelines.configuration.parsers import configured_commands, parser_of
from stores.files import Root
from stores.releases import current_release

CRON = ("deploy/cron/pinnerformer", "deploy/cron/item-vectors")
UNITS = "deploy/systemd"
PROGRAM = "/opt/pinnerformer/bin/pinnerformer"
OURS = os.path.join(os.path.dirname(sys.executable), "pinnerformer")
FLAGS = "/etc/pinnerformer/pinnerformer.yaml"
YESTERDAY = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(1)


def crontab(path: str) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """The variables of a file of /etc/cron.d, and (when, user, command) of its lines, as cron reads them."""
    variables, jobs = {}, []
    with open(path) as file:
        for line in file.read().splitlines():
            if assigned := re.fullmatch(r"(\w+)=(.*)", line):
                variables[assigned[1]] = assigned[2]
            elif line and not line.startswith("#"):
                *when, user, command = line.split(maxsplit=6)
                # A % that is not escaped ends the command: what follows is its standard input.
                assert not re.search(r"(?<!\\)%", command), line
                jobs.append((" ".join(when), user, command.replace(r"\%", "%")))
    return variables, jobs


def unit(name: str) -> dict[str, str]:
    """The settings of a unit."""
    with open(f"{UNITS}/{name}") as file:
        return dict(line.split("=", 1) for line in file.read().splitlines() if re.match(r"\w+=", line))


def services() -> list[str]:
    return sorted(name.removesuffix(".service") for name in os.listdir(UNITS) if name.endswith(".service"))


def commands_of(line: str) -> Iterator[list[str]]:
    """The words of every `pinnerformer COMMAND` of a line for a shell, its substitutions as they stand."""
    for part in re.split(r"&&|>", line):
        words = shlex.split(re.sub(r"\$\(.*?\)", "2026-11-24", part))
        if words[:1] == ["pinnerformer"]:
            yield words[1:]


def test_every_line_of_the_crontabs_is_a_command_of_ours_at_a_time_of_crons():
    found = []
    for path in CRON:
        variables, jobs = crontab(path)
        assert variables["SHELL"] == "/bin/sh" and "/opt/pinnerformer/bin" in variables["PATH"].split(":")
        for when, user, line in jobs:
            assert user == "pinnerformer" and re.fullmatch(r"(\d+|\*)( (\d+|\*)){4}", when), when
            for command, *words in commands_of(line):
                words = [word.replace(FLAGS, "deploy/pinnerformer.yaml") for word in words]
                full = resolve(command, lambda of=command: parser_of(of), words, configured_commands(), {})
                parser_of(command).parse_args(full.words)
                found.append(command)
    assert found == ["daily", "status", "gc", "item-vectors"]


def test_services_type_what_the_crontab_types():
    _, jobs = crontab(CRON[0])
    typed = {words[0]: words for _, _, line in jobs for words in commands_of(line)}
    assert services() == sorted(f"pinnerformer-{command}" for command in typed)
    for name in services():
        program, *words = shlex.split(unit(f"{name}.service")["ExecStart"])
        assert program == PROGRAM and words == typed[words[0]]
        assert f"pinnerformer-{words[0]}" == name
    assert unit("pinnerformer-daily.service")["RestartPreventExitStatus"] == "2 3"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_takes_the_units_and_their_times(tmp_path):
    for name in os.listdir(UNITS):
        with open(f"{UNITS}/{name}") as file:
            (tmp_path / name).write_text(file.read().replace(PROGRAM, OURS).replace("User=pinnerformer", "User=root"))
    paths = sorted(str(path) for path in tmp_path.iterdir())
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True)
    assert done.returncode == 0 and not [line for line in done.stderr.splitlines() if "pinnerformer-" in line], done
    for name in services():
        when = unit(f"{name}.timer")["OnCalendar"]
        assert when.endswith(" UTC")  # or else it is the host's zone
        subprocess.run(["systemd-analyze", "calendar", when], check=True, capture_output=True)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A machine's files as the lines name them, below a folder: logs up to yesterday, vectors, a model, the flags."""
    folder = tmp_path_factory.mktemp("machine")
    start = YESTERDAY - datetime.timedelta(2)
    for words in (
        ["synth", f"--out={folder}/srv", "--users=60", "--pins=200", f"--start={start}", "--days=3", "--seed=1"],
        ["init-model", "--preset=small", f"--logs={folder}/srv/logs", f"--pins={folder}/srv/pins", "--seed=1"],
    ):
        out = [f"--out={folder}/srv/model"] if words[0] == "init-model" else []
        assert main([*words, *out]) == 0
    (folder / "etc/pinnerformer").mkdir(parents=True)
    with open("deploy/pinnerformer.yaml") as file:
        text = file.read().replace("/srv/", f"{folder}/srv/").replace("2026-11-01", str(start))
    (folder / FLAGS[1:]).write_text(text)
    (folder / "srv/pinnerformer").mkdir()
    return str(folder)


def run_line(machine: str, line: str, variables: dict[str, str]) -> str:
    """Runs a line in a shell with no more than the scheduler gives it; returns what it says."""
    for place in ("/srv", "/etc/pinnerformer"):
        line = re.sub(rf"(?<![\w.]){place}\b", f"{machine}{place}", line)
    path = variables["PATH"].replace("/opt/pinnerformer/bin", os.path.dirname(OURS))
    environment = {**variables, "PATH": path, "HOME": machine, "KV_URL": f"lmdb://{machine}/kv"}
    done = subprocess.run(
        [variables["SHELL"], "-c", line], cwd=machine, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, line + done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_every_line_of_the_crontab_runs(machine):
    variables, jobs = crontab(CRON[0])
    said = {shlex.split(line)[1]: run_line(machine, line, variables) for _, _, line in jobs}
    assert current_release(Root(f"{machine}/srv/pinnerformer/root")) == str(YESTERDAY)
    assert said["status"] == ""  # nothing is mailed while nothing rings
    assert list(said) == ["daily", "status", "gc"]


@pytest.mark.slow
def test_every_service_runs(machine):
    shutil.rmtree(f"{machine}/srv/pinnerformer/root", ignore_errors=True)
    for name in ("daily", "status", "gc"):
        line = unit(f"pinnerformer-{name}.service")["ExecStart"].replace(PROGRAM, OURS)
        run_line(machine, line, {"SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"})
    assert current_release(Root(f"{machine}/srv/pinnerformer/root")) == str(YESTERDAY)


@pytest.mark.slow
def test_the_line_that_makes_vectors_before_the_night_runs(machine):
    variables, ((_, _, line),) = crontab(CRON[1])
    for days in range(3, 31):  # the line reads thirty days; those before the world's had no rows
        folder = f"{machine}/srv/logs/ds={YESTERDAY - datetime.timedelta(days)}"
        os.makedirs(folder)
        open(f"{folder}/_SUCCESS", "w").close()
    words = ["item-vectors", f"--logs={machine}/srv/logs", f"--until={YESTERDAY}", f"--out={machine}/srv/made/base"]
    assert main([*words, "--quiet"]) == 0
    os.symlink("base", f"{machine}/srv/made/now")
    run_line(machine, line.replace("pins/", "made/"), variables)
    assert os.readlink(f"{machine}/srv/made/now") == str(YESTERDAY)
    assert os.path.exists(f"{machine}/srv/made/now/version.json")

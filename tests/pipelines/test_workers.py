"""Worker processes that are forked from one that has loaded everything: how many, from what, and how they end."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.arguments import Parser
from pipelines.cli import main
from pipelines.launch.beam_options import parse_flags
from pipelines.launch.crew import WorkersWish, add_workers, choose_crew, cores, workers_wish
from stores.errors import UsageError
from stores.files import Root
from stores.releases import read_current
from tests.pipelines.nights import FIRST, LENGTH, World, files_under, make_world
from tests.warm import run_python
from tests.worlds import day

# --- how many


@pytest.mark.parametrize(
    ("wish", "work_s", "parts", "device", "count"),
    [
        (WorkersWish(), 1.0, 64, "cpu", 1),
        (WorkersWish(), 1e6, 64, "cpu", min(cores(), 64)),
        (WorkersWish(), 1e6, 1, "cpu", 1),
        (WorkersWish(), 1e6, 64, "cuda", 1),
        (WorkersWish(3), 1.0, 1, "cuda", 3),
        (WorkersWish(None, beam_decides=True), 1e6, 64, "cpu", 0),
    ],
    ids=["little work", "much", "one part", "a device", "as said", "Beam's flags"],
)
def test_there_are_as_many_as_pay(wish, work_s, parts, device, count):
    assert choose_crew(wish, work_s, parts, device).count == count


def parse_wish(*words: str) -> WorkersWish:
    parser = Parser()
    add_workers(parser)
    found, beam = parse_flags(parser, list(words))
    return workers_wish(found, beam, found.beam_words)


def test_flags_of_beams_own_go_on_working_and_do_not_go_with_ours():
    assert parse_wish() == WorkersWish(None, False)
    assert parse_wish("--workers=2") == WorkersWish(2, False)
    assert parse_wish("--direct_num_workers=1") == parse_wish("--runner=FlinkRunner") == WorkersWish(None, True)
    for theirs in ("--direct_num_workers=1", "--direct_running_mode=multi_processing", "--runner=FlinkRunner"):
        with pytest.raises(UsageError, match=f"--workers and {theirs.partition('=')[0]}: "):
            parse_wish("--workers=2", theirs)


# --- from what

NIGHT = """
import sys
from pipelines.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run_first_night(world: World, root: str, *more: str) -> str:
    """Runs the first night in a process of its own; returns what it said."""
    flags = [f"--root={root}", *world.inputs, f"--date={day(0)}", f"--bootstrap-from={FIRST}", "--publish=none"]
    sizes = ["--user-buckets=4", "--pin-shards=2", f"--history-length={LENGTH}"]
    done = run_python(NIGHT, "daily", *flags, *sizes, *more)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_bytes_are_the_same_whatever_their_number_and_the_night_says_it(tmp_path):
    world = make_world(str(tmp_path))
    said = {
        flags: run_first_night(world, f"{tmp_path}/root{''.join(flags)}", *flags) for flags in ((), ("--workers=2",))
    }
    one, two = [read_current(Root(f"{tmp_path}/root{''.join(flags)}")) for flags in said]
    assert one is not None and two is not None
    assert one.tables == two.tables  # paths, which carry the digest of what is in the file
    first_lines = [words.splitlines()[0] for words in said.values()]
    assert first_lines[0] == "1 worker: work guessed by rows and pins, as no release tells yet: more would not pay"
    assert first_lines[1] == "2 workers: as --workers says"


FORKS = """
import sys
from pipelines.cli import main
from pipelines.launch.worker_template import WorkerTemplate

started, start = [], WorkerTemplate.start
WorkerTemplate.start = lambda self, *words: started.append(self.forked) or start(self, *words)
code = main(sys.argv[1:])
print(f"workers {started}")
sys.exit(code)
"""


def test_training_data_and_item_vectors_have_them_and_make_the_same_bytes(tmp_path):
    world = make_world(str(tmp_path))
    logs, pins = world.inputs[:2]
    rule = tmp_path / "rule"
    rule.write_text('{"surfaces": ["*"], "actions": {"*": 0}}')
    sizes = [f"--start={day(0)}", "--buckets=3", "--quiet"]
    jobs = {
        "training-data": [pins, f"--end={day(2)}", f"--label-rule={rule}", *sizes],
        "item-vectors": [f"--until={day(3)}", "--width=64", *sizes],
    }
    for job, flags in jobs.items():
        made = []
        for number in (1, 2):
            out = f"{tmp_path}/{job}{number}"
            done = run_python(FORKS, job, logs, f"--out={out}", *flags, f"--workers={number}")
            assert done.returncode == 0, done.stderr
            assert done.stdout.splitlines()[-1] == f"workers {[True] * number if number > 1 else []}"
            made.append({name: Path(out, name).read_bytes() for name in files_under(out)})
        assert made[0] == made[1] and len(made[0]) >= 2


def test_the_plan_says_how_many(kept_nights, tmp_path, capsys):
    world, root = kept_nights.copy(1, str(tmp_path))
    plan = ["plan", f"--root={root}", *world.inputs, f"--date={day(1)}"]
    said = []
    for flags in ([], ["--workers=7"], ["--direct_num_workers=2"]):
        assert main([*plan, *flags]) == 0
        said += [
            " ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.startswith("  workers")
        ]
    assert said[0].startswith("workers 1 about ") and said[0].endswith("more would not pay")
    assert said[1:] == ["workers 7 as --workers says", "workers as many as Beam's flags or the engine say"]


FORKED = """
import sys, threading
from pipelines.launch.worker_template import WorkerTemplate, why_not_forked
from stores.kv import open_store

if sys.argv[1] == "store":
    store = open_store(sys.argv[2], "a-namespace")
    store.check()
if sys.argv[1] == "thread":
    over = threading.Event()
    threading.Thread(target=over.wait).start()
with WorkerTemplate() as template:
    print(template.forked, why_not_forked(), flush=True)
if sys.argv[1] == "thread":
    over.set()
"""


@pytest.mark.parametrize(
    ("opened", "said"),
    [
        ("nothing", "True"),
        ("store", "False a store or a socket is open"),
        ("thread", "False threads have been started"),
    ],
)
def test_a_process_that_has_a_thread_or_a_store_is_not_forked(opened, said, tmp_path):
    done = run_python(FORKED, opened, f"lmdb://{tmp_path}/kv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(said)


# --- how they end

SLEEPING = """
import os, signal, sys, time
from pipelines.launch import worker_template

def sleep(worker_id, control):
    with open(f"{sys.argv[1]}/{worker_id}.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{sys.argv[1]}/{worker_id}.new", f"{sys.argv[1]}/{worker_id}")
    time.sleep(600)

worker_template.run_worker = sleep
template = worker_template.WorkerTemplate()
pipes = [template.start(name, "nowhere") for name in ("one", "two")]
while len(os.listdir(sys.argv[1])) < 2 or any(name.endswith(".new") for name in os.listdir(sys.argv[1])):
    time.sleep(0.01)
with open(f"{sys.argv[1]}/template", "w") as file:
    file.write(str(template._pid))
"""


def wait_for_end(pids: list[int]) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        left = []
        for pid in pids:
            try:
                if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    left.append(pid)
            except psutil.NoSuchProcess:
                continue
        if not left:
            return
        time.sleep(0.05)
    pytest.fail(f"still there: {left}")


def read_pids(folder: str) -> list[int]:
    found = []
    for name in sorted(os.listdir(folder)):
        with open(f"{folder}/{name}") as file:
            found.append(int(file.read()))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and ends them, by Linux's means")
def test_workers_and_template_end_with_a_command_that_is_killed(tmp_path):
    done = run_python(SLEEPING + "os.kill(os.getpid(), signal.SIGKILL)", str(tmp_path))
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = read_pids(str(tmp_path))
    assert len(pids) == 3
    wait_for_end(pids)


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and ends them, by Linux's means")
def test_workers_end_with_their_template_and_whoever_waits_is_told(tmp_path):
    code = """
os.kill(template._pid, signal.SIGKILL)
for pipe in pipes:
    try:
        worker_template.wait_for(pipe)
    except RuntimeError as error:
        print(error)
try:
    worker_template.wait_for(template.start("three", "nowhere"))
except RuntimeError as error:
    print(error)
"""
    done = run_python(SLEEPING + code, str(tmp_path))
    lines = done.stdout.splitlines()
    assert lines[:2] == ["a worker process ended with no word"] * 2, done.stderr
    # Whether its socket is closed before its pipes is the kernel's choice.
    assert lines[2].startswith(("the process that starts workers has ended", lines[0]))
    wait_for_end(read_pids(str(tmp_path)))


@pytest.mark.timeout(120)
def test_a_worker_that_is_killed_ends_the_run_soon():
    """As when memory runs out; left to itself the local runner may wait for it forever."""
    code = """
import os, signal
import apache_beam as beam
from pipelines.arguments import Parser
from pipelines.launch.beam_options import parse_beam_options
from pipelines.launch.forked_workers import runner_of
from pipelines.launch.run_pipeline import run_pipeline
from pipelines.launch.worker_template import WorkerTemplate
from stores.errors import StoreError

def die(element):
    os.kill(os.getpid(), signal.SIGKILL)

with WorkerTemplate() as template:
    options = parse_beam_options(Parser(), ["--direct_num_workers=2"])
    try:
        run_pipeline("a-run", options, lambda p: p | beam.Create([1]) | beam.Map(die), runner=runner_of(template))
    except StoreError as error:
        print(error, flush=True)
    os._exit(0)
"""
    done = run_python(code)
    assert done.stdout.startswith("a worker "), done.stdout + done.stderr[-3000:]
    assert "nothing was released" in done.stdout.splitlines()[0]

"""What a command took, all of its processes counted."""

import subprocess
import sys

import pytest

from benchmarks.measuring import run_measured

BURN = "import time\nwhile time.process_time() < 0.6: pass"
# The command ends at once; what it leaves behind works on, and nobody but its new parent waits for it.
LEAVE = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BURN!r}])"


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
def test_the_cpu_of_what_a_command_leaves_behind_is_counted(tmp_path):
    # In a process of its own, which becomes the parent of orphans for good.
    code = "import sys; from benchmarks.measuring import run_measured\n"
    code += f"print(run_measured([sys.executable, '-c', {LEAVE!r}], {{}}, {str(tmp_path / 'log')!r}).cpu_s)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) >= 0.6


def test_a_command_gets_its_environment_and_what_it_prints_is_kept(tmp_path):
    log = tmp_path / "log"
    code = "import os, time; print(os.environ['WORD']); x = bytearray(30 << 20); x[::4096] = b'1' * 7680; time.sleep(1)"
    cost = run_measured([sys.executable, "-c", code], {"WORD": "threads"}, str(log))
    assert log.read_text() == "threads\n"
    assert cost.wall_s >= 1 and cost.peak_bytes > 30 << 20


def test_a_command_that_fails_is_shown_with_its_last_lines(tmp_path):
    with pytest.raises(RuntimeError, match="exit code 3: .*\n(.*\n)*the reason"):
        code = "print('the reason', flush=True); raise SystemExit(3)"
        run_measured([sys.executable, "-c", code], {}, str(tmp_path / "log"))

"""Python processes that are ready at once: forks of one that imported Beam, torch and the jobs, a few seconds of CPU.

For what needs a process of its own (to be killed in, to patch Beam in, to have its exit code looked at). What a real
start is part of, such as what engines say on the screen meanwhile, starts a real interpreter.
"""

import ctypes
import functools
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping

PR_SET_PDEATHSIG = 1


def run_python(code: str, *arguments: str, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Runs `code` as `python -c code arguments...` would, in a process group of its own; what it wrote is text.

    Args:
        env: Variables to set beside those of this process.

    Returns:
        The return code, negative if a signal ended it, stdout and stderr.
    """
    return run_together([code], *arguments, envs=[env or {}])[0]


def run_together(
    codes: list[str], *arguments: str, envs: list[Mapping[str, str]]
) -> "list[subprocess.CompletedProcess[str]]":
    """`run_python` of several at the same time; returns when all have ended."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = [
            {
                "code": code,
                "argv": ["-c", *arguments],
                "env": {**os.environ, **env},
                "out": f"{folder}/{number}.out",
                "err": f"{folder}/{number}.err",
            }
            for number, (code, env) in enumerate(zip(codes, envs, strict=True))
        ]
        found = []
        for task, code in zip(tasks, _parent().run(tasks), strict=True):
            with open(task["out"]) as out, open(task["err"]) as err:
                found.append(subprocess.CompletedProcess(task["argv"], code, out.read(), err.read()))
        return found


class _Parent:
    """The process that forks; it ends with this one."""

    def __init__(self):
        command = [sys.executable, "-m", "tests.warm"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, tasks: list[dict]) -> list[int]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(tasks) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except BaseException:  # a test that took too long: what it waited for must not answer the next one
            self.close()
            raise

    def close(self) -> None:
        """Ends it, and with it what it forked."""
        self._process.kill()
        self._process.wait()
        _parent.cache_clear()


@functools.cache
def _parent() -> _Parent:
    return _Parent()


def end_parent() -> None:
    """Ends the process that forks, if there is one."""
    if _parent.cache_info().currsize:
        _parent().close()


def _fork(task: dict) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for descriptor, path in ((0, os.devnull), (1, task["out"]), (2, task["err"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), descriptor)
        # Not closed with these objects: where code puts others in their place, descriptor 2 would be somebody's socket.
        sys.stdin = open(0, closefd=False)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
        sys.argv = task["argv"]
        os.environ.clear()
        os.environ.update(task["env"])
        exec(compile(task["code"], "<code>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Forks what the lines of stdin ask for; a line of return codes for each."""
    import pipelines.backfill
    import pipelines.daily_inference
    import pipelines.training.train  # noqa: F401
    from tests import beam_memo

    beam_memo.install()
    gc.freeze()
    for line in sys.stdin:
        pids = [_fork(task) for task in json.loads(line)]
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)


if __name__ == "__main__":
    main()

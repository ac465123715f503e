"""Runs a Beam pipeline as a command does: errors as one line, everything else that engines say in a file."""

import contextlib
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult, PipelineRunner

from pipelines.launch.beam_options import choose_runner
from pipelines.launch.engine_hosts import explain_artifacts, find_job_server, say_software
from stores.errors import InputError, LeaseLostError, OvertakenError, PinnerFormerError, StoreError, UsageError
from transforms.host_check import PACKAGES

DEBUG = "PINNERFORMER_DEBUG"
LOG = logging.getLogger(__name__)


def run_pipeline(
    name: str,
    options: PipelineOptions,
    define: Callable[[beam.Pipeline], None],
    wait: bool = True,
    runner: PipelineRunner | None = None,
) -> PipelineResult:
    """Builds and runs a pipeline to its end, or hands it to its engine.

    Args:
        name: Of the run; part of the engine's log's name.
        options: As `arguments.parse_beam_options` gave them.
        define: Puts the steps on the pipeline.
        wait: For its end; the result knows the engine's name for the job all the same.
        runner: To run it with; None: as the options say.

    Raises:
        PinnerFormerError: what a step raised, under its own type and with its own message, or a `StoreError` that
            names the file with the engine's log.
    """
    # Outermost the log: what the interrupter or a dying worker prints belongs into it.
    with engine_log(name) as log, notice_dead_workers() as died:
        try:
            find_job_server(options)
            say_software(options)
            pipeline = beam.Pipeline(runner=runner or choose_runner(options), options=options)
            define(pipeline)
            result = pipeline.run()
            if wait:
                result.wait_until_finish()
            return result
        except KeyboardInterrupt as error:
            if not died:
                raise
            raise StoreError(
                f"a worker process died ({died[0]}), as when memory runs out; nothing was released, "
                "start the same command again: it goes on where it was"
            ) from error
        except PinnerFormerError as error:  # Beam appends the name of the step
            raise type(error)(str(error).partition(" [while running")[0]) from error
        except Exception as error:
            LOG.debug("the runner's own words", exc_info=True)
            if log:
                with open(log, "a") as file:
                    traceback.print_exc(file=file)
            raise explain_artifacts(str(error), options) or explain_worker_failure(error, log) from error


GRACE_S = 10.0
INTERRUPT = signal.SIGUSR1


@contextlib.contextmanager
def notice_dead_workers() -> Iterator[list[str]]:
    """Interrupts the body when a worker process of the local runner died: the runner may wait for it forever.

    As a rule the runner raises by itself; it is given `GRACE_S` seconds for that. What it does when it is interrupted
    may wait for the dead worker too: it is interrupted again. Not by SIGINT, which a command that a script started in
    the background ignores. Off the main thread nothing can be interrupted, and nothing is.

    Yields:
        What is known of workers that died; empty as long as none did.
    """
    died: list[str] = []
    over = threading.Event()
    before = threading.excepthook

    def interrupt() -> None:
        while not over.wait(GRACE_S):
            signal.pthread_kill(threading.main_thread().ident or 0, INTERRUPT)

    interrupter = threading.Thread(target=interrupt, daemon=True)

    def notice(raised: Any) -> None:
        before(raised)
        if raised.thread is not None and raised.thread.name == "run_worker":
            died.append(str(raised.exc_value))
            if len(died) == 1:
                interrupter.start()

    if threading.current_thread() is not threading.main_thread():
        yield died
        return
    handler = signal.signal(INTERRUPT, signal.default_int_handler)
    threading.excepthook = notice
    try:
        yield died
    finally:
        over.set()
        threading.excepthook = before
        if died:
            interrupter.join()  # a signal sent after this would meet the handler of before
        signal.signal(INTERRUPT, handler)


@contextlib.contextmanager
def engine_log(name: str) -> Iterator[str | None]:
    """Sends what this process and its workers write to file descriptor 2 to a file while the body runs.

    `sys.stderr`, and with it our own lines and bars, stays where it was. The file is kept where the body fails with an
    error that names it. With PINNERFORMER_DEBUG set nothing is redirected.

    Yields:
        The file's path; None if nothing is redirected.
    """
    if os.environ.get(DEBUG):
        yield None
        return
    descriptor, path = tempfile.mkstemp(prefix=f"pinnerformer-{name}-", suffix=".log")
    before, shown = os.dup(2), sys.stderr
    ours = None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stderr.fileno() == 2:
            ours = sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    # The file descriptor and not `sys.stderr`: workers and C++ libraries write to 2 past Python.
    os.dup2(descriptor, 2)
    os.close(descriptor)
    wanted = False
    try:
        yield path
    except PinnerFormerError as error:
        wanted = path in str(error)
        raise
    finally:
        if not wanted:
            os.unlink(path)
        os.dup2(before, 2)
        os.close(before)
        sys.stderr = shown
        if ours is not None:
            ours.close()


def explain_worker_failure(error: BaseException, log: str | None) -> PinnerFormerError:
    """Finds the message in what an engine made of a worker's exception: it keeps the text and loses the type."""
    text = str(error)
    # An engine hands back text: the type, and with it the exit code, has to be found in it again.
    for kind in (InputError, LeaseLostError, OvertakenError, StoreError, UsageError):
        match = re.search(rf"{kind.__module__}\.{kind.__name__}: (.+?)(?: \[while running|\n|\\n|$)", text)
        if match:
            return kind(match[1])
    match = re.search(r"pinnerformer_model\.config\.ModelError: (.+?)(?: \[while running|\n|\\n|$)", text)
    if match:
        return InputError(match[1])
    match = re.search(rf"(?:No module named|Can't get attribute|module) '(?:{'|'.join(PACKAGES)})[^\n\\]*", text)
    if match:
        return StoreError(
            f"a worker cannot read the job ({match[0].strip()[:200]}): it has another version of this project than the "
            "launcher; start both from one image, or one lock file; nothing was released"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    last = named[-1] if named else f"{type(error).__name__}: {' '.join(lines[-1:])}"
    where = f"its trace is in {log}" if log else "its trace is above"
    return StoreError(f"a worker failed: {last}; {where}, nothing was released")

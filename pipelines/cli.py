"""The commands of the console script `pinnerformer`, and what it says of itself."""

import contextlib
import difflib
import logging
import os
import select
import sys
from typing import TextIO

from pipelines.configuration.early import look_for
from pipelines.configuration.layers import Resolved, resolve
from pipelines.configuration.parsers import UNCONFIGURED, configured_commands, parser_of
from pipelines.launch.lean_imports import import_job
from pipelines.launch.loading import say_loading
from pipelines.telemetry.facts import begin
from pipelines.telemetry.lines import JSON, TEXT, is_json, lines_of, say, say_error
from pipelines.telemetry.watch import end_of, watch_of
from stores.errors import PinnerFormerError, UsageError

# Group -> name -> (module with `main(argv) -> exit code`, one line)
GROUPS = {
    "every night": {
        "daily": ("pipelines.daily_inference", "turn the logs up to a date into one release"),
        "plan": ("pipelines.operations.plan", "say what a night would read, write and cost; write nothing"),
        "status": ("pipelines.operations.status", "show the releases of a root and what the store serves"),
        "release": ("pipelines.operations.release", "check, commit and publish a run that was staged but cut off"),
        "report": ("pipelines.report.command", "write the page that says how a release, or a refused run, came out"),
        "check-inputs": (
            "pipelines.operations.check_inputs",
            "say what a night would make of its inputs; write nothing",
        ),
    },
    "many days": {
        "backfill": ("pipelines.backfill", "turn the logs of many days into one release per day, at once"),
    },
    "between nights": {
        "rollback": ("pipelines.operations.rollback", "serve an older release again, and hold the root there"),
        "repair": ("pipelines.operations.repair", "make again what a corrected input touched"),
        "verify": ("pipelines.operations.verify", "compare a release with what it says of itself"),
        "rebucket": ("pipelines.operations.rebucket", "make a root of other buckets and shards from an old one"),
        "gc": ("pipelines.operations.gc", "remove old releases, leftovers and generations nobody reads"),
        "erase": ("pipelines.operations.erase", "remove people from everything, and keep them out"),
    },
    "models": {
        "init-model": ("pipelines.training.init_model", "write an untrained model with the logs' vocabularies"),
        "item-vectors": ("pipelines.item_vectors", "make pin vectors from logs, where there is no PinSage"),
        "training-data": ("pipelines.training_data", "turn logs into timelines to train on, one row per user"),
        "train": ("pipelines.training.train", "train a model on timelines"),
        "evaluate": ("pipelines.training.evaluate", "measure models on users that training did not see"),
        "study": ("pipelines.study.command", "train and measure the grid behind the paper's tables, on your data"),
    },
    "your tables": {
        "import": ("pipelines.importing.command", "turn CSV, JSON, Parquet or databases into logs and pin vectors"),
        "export": ("pipelines.exporting.command", "write a release's users and pins as others read them"),
    },
    "look": {
        "retrieve": ("pipelines.operations.retrieve", "print the pins nearest to a user"),
        "serve": ("pipelines.serving.command", "answer over HTTP, and show people what is found and why"),
    },
    "flags in a file": {
        "init": ("pipelines.configuration.init", "write pinnerformer.yaml, by asking or by looking at your data"),
        "config": ("pipelines.configuration.show", "print what is in force for a command, and where it comes from"),
        "completion": ("pipelines.configuration.completion", "print what completes commands and flags in a shell"),
    },
    "make data": {
        "synth": ("pipelines.synthetic.world", "write a synthetic, seeded, Pinterest-like world of logs and vectors"),
    },
    "engines": {
        "worker-pool": ("pipelines.launch.worker_pool", "serve Python workers to an engine that runs beside it"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def usage() -> str:
    """What `pinnerformer --help` says."""
    groups = [
        "\n".join([f"{title}:", *(f"  {name:<15}{line}" for name, (_, line) in commands.items())])
        for title, commands in GROUPS.items()
    ]
    return "\n\n".join(
        [
            "usage: pinnerformer COMMAND ...",
            "Every night: logs in; user embeddings in a key-value store and pin embeddings in an HNSW index out.",
            *groups,
            "pinnerformer COMMAND --help says more; pinnerformer --version says which one this is.\n"
            "exit codes: 0 done, 1 failed, 2 wrong use, 3 refused by a gate, 4 of train: nothing beat its start",
        ]
    )


READER_GONE = 141  # what a shell says of a program that SIGPIPE ended: 128 + 13


def find_command(name: str) -> str:
    """The module of a command.

    Raises:
        UsageError: there is none of this name; says the nearest one.
    """
    if name in COMMANDS:
        return COMMANDS[name][0]
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
    raise UsageError(f"no command {name!r}; {hint}")


def main(argv: list[str] | None = None) -> int:
    """Runs one command; errors become one line that says what to do, and an exit code.

    Where whoever reads the output has gone (`| head -1`), the command ends without a word, as programs do that SIGPIPE
    ends. Python ignores that signal, rightly: a socket that its other end closed must not end a night.
    """
    try:
        try:
            return run_command(sys.argv[1:] if argv is None else argv, ends=argv is None)
        finally:
            sys.stdout.flush()  # here, where it can be answered: the interpreter's own comes too late for that
    except BrokenPipeError:
        if not any(map(_reader_is_gone, (sys.stdout, sys.stderr))):
            raise  # of another pipe or socket
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        # rich answers a closed pipe itself: it ends the process with 1, a failure to whoever asks for the exit code.
    _discard_output()
    return READER_GONE


def printable(text: str) -> str:
    """A text as a terminal may be given it: names of files, columns and actions are other people's, and an escape in
    one would move the cursor or set the window's title. Such characters are shown as Python writes them.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def _reader_is_gone(stream: TextIO) -> bool:
    """Whether a stream is a pipe or socket that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except (OSError, ValueError):  # not a file of the system's, or closed
        return False


def _discard_output() -> None:
    """Lets what is still in the buffers of closed pipes go nowhere, when the interpreter flushes them at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if _reader_is_gone(stream):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def read_words(name: str, argv: list[str]) -> Resolved:
    """The words of a command: what a file and the environment say, then what was typed; `--help` is answered here.

    Raises:
        UsageError: names the file, the line and the key.
    """
    if {"-h", "--help"} & set(argv):
        parser_of(name).parse_args(["--help"])  # ends here, and nothing was loaded that the command computes with
    if name in UNCONFIGURED:
        return Resolved(tuple(argv))
    return resolve(name, lambda: parser_of(name), argv, configured_commands(), os.environ)


def run_command(argv: list[str], *, ends: bool = False) -> int:
    """Runs one command; returns its exit code.

    Args:
        ends: Whether the process ends with it.
    """
    # One screen for the operator: the libraries' own chatter only where it is asked for.
    level = logging.DEBUG if os.environ.get("PINNERFORMER_DEBUG") else logging.ERROR
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        import pinnerformer

        print(f"pinnerformer {pinnerformer.__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    begin(name, quiet=look_for("quiet", name, rest, os.environ) == "true")
    form = look_for("log-format", name, rest, os.environ)
    with lines_of(JSON if form == JSON else TEXT, ends=ends):
        return run_watched(name, rest)


def run_watched(name: str, argv: list[str]) -> int:
    """Runs one command, and tells whoever its flags name; returns its exit code."""
    watch, code, error = None, 1, None
    words = Resolved(())
    try:
        module = find_command(name)
        words = read_words(name, argv)
        watch = watch_of(name, words.words)
        if watch:
            watch.start()
        say_loading(name)
        beam_alone = parser_of(name).takes_beam and not any(word.startswith("--runner") for word in words.words)
        code = import_job(module, beam_alone=beam_alone).main(list(words.words))
    except PinnerFormerError as failed:
        logging.getLogger(__name__).debug("trace", exc_info=True)
        if watch is None:  # wrong use: whoever is named among the words is told of that too
            with contextlib.suppress(PinnerFormerError):
                watch = watch_of(name, argv)
        code, error = failed.exit_code, printable(f"{failed}{words.notes(str(failed))}")
        say(f"pinnerformer {name}: {error}" if not is_json() else error, level=logging.ERROR, **end_of(code))
    except KeyboardInterrupt:
        error = "interrupted; run the same command again to go on"
        say(f"pinnerformer {name}: {error}", level=logging.ERROR)
    except Exception as unexpected:
        error = f"{type(unexpected).__name__}: {unexpected}"
        if isinstance(unexpected, BrokenPipeError) or not is_json():
            raise
        say_error(unexpected)
    finally:
        if watch:
            watch.end(code, error)
    return code


if __name__ == "__main__":
    import pinnerformer

    sys.exit(pinnerformer.main())  # which says to libraries, before they are loaded, what jobs want of them

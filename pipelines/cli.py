"""The console script `pinnerformer`."""

import importlib
import logging
import os
import sys

from stores.errors import PinnerFormerError, UsageError

COMMANDS = {  # name -> (module with `run(argv) -> exit code`, one line)
    "synth": ("pipelines.synth", "write a synthetic, seeded, Pinterest-like world of logs and vectors"),
    "init-model": ("pipelines.init_model", "write an untrained model with the logs' vocabularies"),
    "training-data": ("pipelines.training_data", "turn logs into timelines to train on, one row a user"),
    "evaluate": ("pipelines.evaluate", "measure models on users that training did not see"),
    "train": ("pipelines.train", "train a model on timelines"),
    "study": ("pipelines.study", "train and measure the grid behind the paper's tables, on your data"),
    "daily": ("pipelines.daily_inference", "turn the logs up to a date into one release"),
    "backfill": ("pipelines.backfill", "turn the logs of many days into one release a day, at once"),
    "release": ("pipelines.release", "check, commit and publish a run that was staged but cut off"),
    "rollback": ("pipelines.rollback", "serve an older release again, and hold the root there"),
    "gc": ("pipelines.gc", "remove old releases, leftovers and generations nobody reads"),
    "erase": ("pipelines.erase", "remove people from everything, and keep them out"),
    "verify": ("pipelines.verify", "hold a release against what it says of itself"),
    "repair": ("pipelines.repair", "make anew what a corrected input touched"),
    "plan": ("pipelines.plan", "say what a night would read, write and cost; write nothing"),
    "retrieve": ("pipelines.retrieve", "print the pins nearest to a user"),
    "worker-pool": ("pipelines.worker_pool", "serve Python workers to an engine that runs beside it"),
    "status": ("pipelines.status", "show the releases of a root and what the store serves"),
}


def usage() -> str:
    lines = "\n".join(f"  {name:<15}{line}" for name, (_, line) in COMMANDS.items())
    return (
        "usage: pinnerformer COMMAND ...\n\n"
        "Every night: logs in; user embeddings in a key-value store and pin embeddings in an HNSW index out.\n\n"
        f"commands:\n{lines}\n\n"
        "pinnerformer COMMAND --help says more.\n"
        "exit codes: 0 done, 1 failed, 2 wrong use, 3 refused by a gate"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs one command; errors become one line that says what to do, and an exit code."""
    argv = sys.argv[1:] if argv is None else argv
    # One screen for the operator: the libraries' own chatter only where it is asked for.
    level = logging.DEBUG if os.environ.get("PINNERFORMER_DEBUG") else logging.ERROR
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    name = argv[0]
    try:
        if name not in COMMANDS:
            raise UsageError(f"no command {name!r}; there are {', '.join(COMMANDS)}")
        return importlib.import_module(COMMANDS[name][0]).run(argv[1:])
    except PinnerFormerError as error:
        logging.getLogger(__name__).debug("trace", exc_info=True)
        print(f"pinnerformer {name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"pinnerformer {name}: interrupted; run the same command again to go on", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

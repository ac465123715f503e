"""The parser of every command, without the libraries that the command computes with."""

import functools
import importlib

from pipelines.arguments import Parser

UNCONFIGURED = ("init", "config", "completion")  # which look at files of flags themselves, or need none

# Where a command's module loads Beam or torch, its flags are read in a module of their own.
REQUESTS = {
    "daily": "pipelines.planning.daily_request",
    "plan": "pipelines.planning.plan_request",
    "check-inputs": "pipelines.planning.check_request",
    "backfill": "pipelines.planning.backfill_request",
    "repair": "pipelines.planning.repair_request",
    "rebucket": "pipelines.planning.rebucket_request",
    "item-vectors": "pipelines.planning.item_vectors_request",
    "training-data": "pipelines.planning.training_data_request",
    "train": "pipelines.training.train_request",
    "evaluate": "pipelines.training.evaluate_request",
    "study": "pipelines.study.study_request",
    "worker-pool": "pipelines.launch.worker_pool_request",
    "import": "pipelines.importing.request",
    "export": "pipelines.exporting.request",
    "serve": "pipelines.serving.request",
}


def parser_of(command: str) -> Parser:
    """The parser of a command.

    Raises:
        UsageError: there is no such command.
    """
    from pipelines.cli import find_command  # which calls this

    module = find_command(command)
    return importlib.import_module(REQUESTS.get(command, module)).make_parser()


@functools.cache
def all_parsers() -> dict[str, Parser]:
    """The parsers of all commands, by name."""
    from pipelines.cli import COMMANDS

    return {command: parser_of(command) for command in COMMANDS}


def configured_commands() -> list[str]:
    """The commands that read their flags from a file too, which may have a section for each."""
    from pipelines.cli import COMMANDS

    return [command for command in COMMANDS if command not in UNCONFIGURED]


def commands_with(flag: str) -> list[str]:
    """The commands that have a flag that a file may give, by its name without dashes."""
    if flag in ("help", "config"):
        return []
    return [name for name in configured_commands() if f"--{flag}" in all_parsers()[name]._option_string_actions]

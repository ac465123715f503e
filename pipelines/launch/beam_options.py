"""Beam's own options on our command lines, and the runner that they name.

Beam is loaded where something is asked of it: whoever only makes a parser does not wait for it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import multiprocessing
from typing import TYPE_CHECKING

from pipelines.arguments import Parser
from stores.errors import UsageError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

LOCAL_RUNNERS = (None, "DirectRunner", "FnApiRunner")


def beam_actions() -> dict[str, argparse.Action]:
    """Every flag that some Beam options class declares, by name."""
    from apache_beam.options.pipeline_options import PipelineOptions

    parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve", allow_abbrev=False)
    pending = list(PipelineOptions.__subclasses__())
    while pending:
        options = pending.pop()
        pending += options.__subclasses__()
        if "_add_argparse_args" in vars(options):
            options._add_argparse_args(parser)
    return {flag: action for action in parser._actions for flag in action.option_strings}


def parse_flags(parser: Parser, argv: list[str]) -> tuple[argparse.Namespace, PipelineOptions]:
    """Reads a command line of our own flags and Beam's.

    Raises:
        UsageError: a flag that neither we nor Beam know; names the nearest one that exists.
    """
    parser.refuse_unknown(argv, beam_actions())
    found, rest = parser.parse_known_args(argv)
    found.beam_words = rest
    return found, parse_beam_options(parser, rest)


def parse_beam_options(parser: Parser, rest: list[str]) -> PipelineOptions:
    """Reads what our own parser left over as Beam's options.

    Raises:
        UsageError: a flag that neither we nor Beam know; names the nearest one that exists.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    known = beam_actions()
    parser.refuse_unknown(rest, known)
    takes_value = False
    for word in rest:
        if word.startswith("--"):
            action = known.get(word.partition("=")[0])
            takes_value = (action is None or action.nargs != 0) and "=" not in word
        elif not takes_value:
            raise UsageError(f"unexpected argument {word!r}; see {parser.prog} --help")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions(rest)
            options.get_all_options()  # Beam reads the flags here and not before
    except SystemExit:
        why = said.getvalue().strip().rpartition("error: ")[2] or " ".join(rest)
        raise UsageError(f"Beam does not take these options: {why}") from None
    return options


def choose_runner(options: PipelineOptions) -> FnApiRunner | str:
    """The runner to hand to Beam: the in-process one named outright, or what `--runner` says.

    `DirectRunner` is taken for the in-process one too: left to itself it first tries to download another.
    """
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    named = options.get_all_options().get("runner")
    if named not in LOCAL_RUNNERS:
        return named
    logging.getLogger("apache_beam.runners.portability.fn_api_runner").setLevel(logging.ERROR)
    return FnApiRunner()


def is_local(options: PipelineOptions) -> bool:
    return options.get_all_options().get("runner") in LOCAL_RUNNERS


def worker_threads(options: PipelineOptions) -> int:
    """torch threads a worker process; 0 where an engine decides.

    One, whatever the number of cores: threads go in lockstep, and on a busy machine each waits for the slowest. Where
    Beam's own flags ask for fewer processes than there are cores, they share the cores out.
    """
    from apache_beam.options.pipeline_options import DirectOptions

    direct = options.view_as(DirectOptions)
    if not is_local(options):
        return 0
    if direct.direct_running_mode != "multi_processing":
        return 1
    cores = multiprocessing.cpu_count()
    return max(1, cores // (direct.direct_num_workers or cores))

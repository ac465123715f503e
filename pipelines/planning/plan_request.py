"""What `pinnerformer plan` is asked for: a night, by the flags of `daily`."""

from pipelines.arguments import Parser
from pipelines.launch.beam_options import parse_flags
from pipelines.planning import daily_request
from pipelines.planning.daily_request import NightRequest, night_request

DESCRIPTION = """\
Says what `daily` with the same flags would read, embed and write, how long the work takes at the rates of the last
releases, and what it needs of memory. What `daily` would refuse is refused here, with the same words and exit code.
Writes nothing.
"""


def make_parser() -> Parser:
    """The flags of `pinnerformer plan`."""
    return daily_request.make_parser("pinnerformer plan", DESCRIPTION, None)


def parse(argv: list[str]) -> NightRequest:
    """Reads the flags of `pinnerformer plan`, which are those of `daily`; where to publish does not matter here.

    Raises:
        UsageError: with the line to show.
    """
    return night_request(*parse_flags(make_parser(), argv))

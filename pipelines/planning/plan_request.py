"""What `pinnerformer plan` is asked for: a night, by the flags of `daily`."""

import dataclasses

from pipelines.arguments import Parser
from pipelines.launch.beam_options import parse_flags
from pipelines.planning import daily_request
from pipelines.planning.daily_request import NightRequest, night_request
from pipelines.planning.sizes import FORMS

DESCRIPTION = """\
Says what `daily` with the same flags would read, embed and write, how long the work takes at the rates of the last
releases, and what it needs of memory. What `daily` would refuse is refused here, with the same words and exit code.
Writes nothing.
"""


@dataclasses.dataclass(frozen=True)
class PlanRequest:
    """What `pinnerformer plan` is asked for.

    Attributes:
        sizes: Whose sizes to print, a key of `FORMS`; None: what is to be said of the night.
    """

    night: NightRequest
    sizes: str | None


def make_parser() -> Parser:
    """The flags of `pinnerformer plan`."""
    parser = daily_request.make_parser("pinnerformer plan", DESCRIPTION, None)
    parser.add_argument(
        "--sizes",
        choices=sorted(FORMS),
        help="print how large the machines of an engine should be for a night of an hour, and nothing else: a "
        "component for an overlay of deploy/kubernetes, or Dataflow's flags",
    )
    return parser


def parse(argv: list[str]) -> PlanRequest:
    """Reads the flags of `pinnerformer plan`, which are those of `daily`; where to publish does not matter here.

    Raises:
        UsageError: with the line to show.
    """
    found, beam = parse_flags(make_parser(), argv)
    return PlanRequest(night_request(found, beam), found.sizes)

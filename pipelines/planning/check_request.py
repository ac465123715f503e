"""What `pinnerformer check-inputs` is asked for: a night, by the flags of `daily`, of which none has to be given."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
from typing import TYPE_CHECKING

from pipelines.arguments import Parser, add_json
from pipelines.launch.beam_options import parse_flags
from pipelines.operations.outcomes import publish_target
from pipelines.planning import daily_request
from pipelines.planning.daily_request import NightRequest, night_request
from stores.errors import UsageError
from transforms.publish import PublishTarget

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

DESCRIPTION = """\
Looks at logs, vectors, model and root before the first night, or before any: what is there, what would be refused or
dropped and why, how many pins of the logs have a vector, how long histories are, which day is missing, what the night
would cost, and the lines of configuration that mend it. With some of them alone it says what it can. Writes nothing.

It takes the flags of `daily`, asks the checks of `daily`, and reads rows and vectors as `daily` does.
"""

EPILOG = """\
exit codes: 0 daily would start; 1, 2 it would not, or fail (2: a flag is wrong or missing); 3 a gate would close

example:
  pinnerformer check-inputs --logs WORLD/logs --pins WORLD/pins
"""

MOST_ROWS = 2_000_000
NEEDED = ("root", "logs", "pins", "model")


@dataclasses.dataclass(frozen=True)
class CheckRequest:
    """What `pinnerformer check-inputs` is asked for.

    Attributes:
        night: As `daily` would be asked for it; what was not given is in `missing`, and its field means nothing.
        missing: Of `NEEDED`.
        date: The last day of logs; None: the newest there is.
        target: Where the night would publish; None: nowhere.
        unpublished: Why the flags name no place to publish to; None where they do.
        most_rows: Of logs, and of vectors, that are read; 0: all.
    """

    night: NightRequest
    missing: frozenset[str]
    date: datetime.date | None
    target: PublishTarget | None
    unpublished: UsageError | None
    most_rows: int
    json: bool


def make_parser() -> Parser:
    """The flags of `pinnerformer check-inputs`: those of `daily`, and how to look."""
    parser = daily_request.make_parser("pinnerformer check-inputs", DESCRIPTION, EPILOG)
    for action in parser._actions:
        action.required = False
    how = parser.add_argument_group("how to look")
    text = "read at most so many rows of logs, and vectors; 0: all"
    how.add_argument("--rows", type=rows, default=MOST_ROWS, metavar="N", help=text)
    add_json(how)
    return parser


def parse(argv: list[str]) -> CheckRequest:
    """Reads the flags of `pinnerformer check-inputs`.

    Raises:
        UsageError: with the line to show.
    """
    return check_request(*parse_flags(make_parser(), argv))


def rows(text: str) -> int:
    """A flag's whole number."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def check_request(found: argparse.Namespace, beam: PipelineOptions) -> CheckRequest:
    """What the flags say.

    Raises:
        UsageError: those that are given do not go together.
    """
    missing = frozenset(name for name in NEEDED if not getattr(found, name))
    given = argparse.Namespace(**{**vars(found), **dict.fromkeys(missing, ".")})
    target, unpublished = None, None
    try:
        target = publish_target(found.kv, found.namespace, found.publish)
    except UsageError as error:
        unpublished = error
    night = night_request(given, beam)
    return CheckRequest(night, missing, found.date, target, unpublished, found.rows, found.json)

"""What `pinnerformer training-data` is asked for: its flags, read into one request."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING

from pipelines.arguments import (
    Parser,
    add_columns,
    add_day_flags,
    add_min_age,
    add_quiet,
    add_root,
    column_names,
    date,
    positive,
    share,
)
from pipelines.launch.beam_options import parse_flags
from pipelines.launch.crew import WorkersWish, add_workers, workers_wish
from stores.column_names import ColumnNames
from stores.errors import UsageError
from stores.files import Root
from stores.partitions import PartitionDays

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

DESCRIPTION = """\
Turns engagement logs into training data: one row per user with everything the user did, oldest first, marked where an
engagement is positive by the label rule; and the matrix of pin vectors beside it. Users are split by a hash of their
id: those of `evaluation/` are never trained on.

Vocabularies and label rule come from --model if it is given; else the vocabularies are what the logs hold, and the
label rule is the paper's: on the surface `homefeed` a `repin`, or a `closeup` or `click` of more than 10 s.
"""

EPILOG = """\
a label rule is a JSON file, least seconds by action; 0 asks for no duration:
  {"surfaces": ["homefeed"], "actions": {"repin": 0, "closeup": 10, "click": 10}}
`*` is every surface, and every action that is not named; by this one every row counts:
  {"surfaces": ["*"], "actions": {"*": 0}}

example:
  pinnerformer training-data --logs WORLD/logs --pins WORLD/pins --out TIMELINES \\
    --start 2026-06-01 --end 2026-11-23 --root ROOT
"""


@dataclasses.dataclass(frozen=True)
class TrainingDataRequest:
    """What `pinnerformer training-data` is asked for.

    Attributes:
        out: A new folder for the timelines.
        start, end: The first and the last partition to read.
        model: A folder whose vocabularies and label rule are taken; None: what the logs hold, and the paper's rule.
        label_rule: A file with another label rule.
        erased_root: The root whose erased users are left out; None: nobody is.
        evaluation_share: Of the users.
        split_salt: Another salt splits the users another way.
        min_age_s: How long a partition without `_SUCCESS` must have been left alone.
        days: Which moments the days of the partitions have.
        buckets, shards: How many tasks users and vectors are cut into.
        beam: Beam's own options.
        workers: How many work on this machine.
        quiet: Without progress display and summary.
    """

    logs: str
    pins: str
    out: Root
    start: datetime.date
    end: datetime.date
    model: str | None
    label_rule: str | None
    erased_root: Root | None
    evaluation_share: float
    split_salt: int
    columns: ColumnNames
    min_age_s: float
    days: PartitionDays
    buckets: int
    shards: int
    beam: PipelineOptions
    workers: WorkersWish
    quiet: bool


def make_parser() -> Parser:
    """The flags of `pinnerformer training-data`."""
    parser = Parser(
        prog="pinnerformer training-data",
        description=DESCRIPTION,
        epilog=EPILOG,
        takes_beam=True,
        own=("model", "pin-shards"),
    )
    parser.add_argument("--logs", required=True, metavar="DIR", help="engagement logs, ds=YYYY-MM-DD/*.parquet")
    parser.add_argument("--pins", required=True, metavar="DIR", help="PinSage vectors, *.parquet and version.json")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder for the timelines")
    parser.add_argument("--start", required=True, type=date, metavar="DATE", help="the first partition to read")
    parser.add_argument("--end", required=True, type=date, metavar="DATE", help="the last one")
    parser.add_argument("--model", metavar="DIR", help="take vocabularies and label rule from its config.json")
    parser.add_argument("--label-rule", metavar="FILE", help="JSON; see below")
    add_root(parser, "leave out the users that ROOT/erased names", required=False)
    parser.add_argument("--evaluation-share", type=share, default=0.1, metavar="SHARE", help="of the users")
    parser.add_argument("--split-salt", type=int, default=1, metavar="N", help="another salt splits another way")
    add_columns(parser)
    add_min_age(parser)
    add_day_flags(parser)
    parser.add_argument("--buckets", type=positive, default=64, metavar="N", help="parts of the users")
    parser.add_argument("--pin-shards", type=positive, default=4, metavar="N", help="parts of the vectors")
    add_workers(parser)
    add_quiet(parser)
    return parser


def parse(argv: list[str]) -> TrainingDataRequest:
    """Reads the flags of `pinnerformer training-data`.

    Raises:
        UsageError: with the line to show.
    """
    found, beam = parse_flags(make_parser(), argv)
    if found.end < found.start:
        raise UsageError(f"--end {found.end} is before --start {found.start}")
    out = Root(found.out)
    if not out.is_local:
        raise UsageError(f"--out {found.out}: training maps timelines into memory; name a local folder")
    return TrainingDataRequest(
        logs=found.logs,
        pins=found.pins,
        out=out,
        start=found.start,
        end=found.end,
        model=found.model,
        label_rule=found.label_rule,
        erased_root=Root(found.root) if found.root else None,
        evaluation_share=found.evaluation_share,
        split_salt=found.split_salt,
        columns=column_names(found),
        min_age_s=found.min_age,
        days=PartitionDays(found.max_clock_skew, found.day_offset),
        buckets=found.buckets,
        shards=found.pin_shards,
        beam=beam,
        workers=workers_wish(found, beam, found.beam_words),
        quiet=found.quiet,
    )

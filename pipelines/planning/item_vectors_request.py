"""What `pinnerformer item-vectors` is asked for: its flags, read into one request."""

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
    seconds,
)
from pipelines.launch.beam_options import parse_flags
from pipelines.launch.crew import WorkersWish, add_workers, workers_wish
from stores.column_names import ColumnNames
from stores.errors import UsageError
from stores.files import Root
from stores.partitions import PartitionDays
from transforms.item_vector_rules import METHODS, NORMS, PairRules

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

DESCRIPTION = """\
Makes vectors of pins from engagement logs, for whoever has no PinSage: what is engaged with together within a window of
each user's history, and what the same users engage with, factorised; beside them content vectors of yours. Writes a
vector set as --pins takes it, which knows nothing of --until and after.

Another set is another space, and wants a model of its own. For pins that come later, --fold-in SET gives vectors in the
space of SET, from their neighbours and their content; those of SET stay as they are.
"""

EPILOG = """\
example:
  pinnerformer item-vectors --logs WORLD/logs --until 2026-11-01 --out PINS
"""

WIDTH, LEAST_WIDTH = 256, 16  # numbers of a vector
LATELY_S = 3 * 86_400.0


@dataclasses.dataclass(frozen=True)
class ItemVectorsRequest:
    """What `pinnerformer item-vectors` is asked for.

    Attributes:
        out: Where the vector set goes.
        until: The first day that it knows nothing of.
        start: The first partition to read; None: the first there is.
        content: A vector set of any width; None: none.
        fold_in: The vector set whose space stands; None: a new space.
        method, norm, width, seed: As `VectorSettings` has them; they are the set's own where one is folded into.
        lately_days: As `VectorSettings` has it.
        rules: Which engagements are a pair.
        neighbours: Kept of a pin.
        least_engagements: Of a pin that has neighbours.
        erased_root: The root whose erased users are left out; None: nobody is.
        min_age_s: How long a partition without `_SUCCESS` must have been left alone.
        days: Which moments the days of the partitions have.
        buckets: How many tasks users and pins are cut into.
        beam: Beam's own options.
        workers: How many work on this machine.
        quiet: Without progress display and summary.
    """

    logs: str
    out: Root
    until: datetime.date
    start: datetime.date | None
    content: str | None
    fold_in: str | None
    method: str
    norm: str
    width: int
    seed: int
    lately_days: float
    rules: PairRules
    neighbours: int
    least_engagements: int
    columns: ColumnNames
    erased_root: Root | None
    min_age_s: float
    days: PartitionDays
    buckets: int
    beam: PipelineOptions
    workers: WorkersWish
    quiet: bool


def make_parser() -> Parser:
    """The flags of `pinnerformer item-vectors`."""
    parser = Parser(prog="pinnerformer item-vectors", description=DESCRIPTION, epilog=EPILOG, takes_beam=True)
    parser.add_argument("--logs", required=True, metavar="DIR", help="engagement logs, ds=YYYY-MM-DD/*.parquet")
    parser.add_argument("--out", required=True, metavar="PINS", help="a new folder for the vector set")
    parser.add_argument("--until", required=True, type=date, metavar="DATE", help="knows nothing of this day and after")
    parser.add_argument(
        "--start", type=date, metavar="DATE", help="the first partition to read (default the first there is)"
    )
    parser.add_argument("--content", metavar="VECTORS", help="a vector set of any width: what pins are about")
    parser.add_argument("--fold-in", metavar="SET", help="add pins to this vector set, in the space that stands")
    making = parser.add_argument_group("how vectors are made (of a set folded into: its own)")
    making.add_argument("--width", type=positive, metavar="N", help="numbers of a vector (default 256)")
    making.add_argument("--method", choices=METHODS, help="mix: ppmi-svd beside als (default mix)")
    making.add_argument(
        "--norm",
        choices=NORMS,
        help="whether inner products know how popular a pin always was; unit: no (default unit)",
    )
    text = "half-life of what tells how popular a pin is lately; 0s: nothing does (default 3d)"
    making.add_argument("--lately", type=seconds, metavar="3d", help=text)
    making.add_argument("--seed", type=int, metavar="N", help="of what is drawn at random (default 0)")
    pairs = parser.add_argument_group("what is engaged with together")
    pairs.add_argument("--window", type=positive, default=30, metavar="N", help="engagements apart")
    pairs.add_argument("--within", type=seconds, default="30d", metavar="30d", help="and time apart")
    text = "of one user, the nearest first"
    pairs.add_argument("--most-pairs", type=positive, default=1_000_000, metavar="N", help=text)
    pairs.add_argument("--neighbours", type=positive, default=100, metavar="N", help="kept of a pin")
    text = "of a pin that has neighbours"
    pairs.add_argument("--least-engagements", type=positive, default=5, metavar="N", help=text)
    add_root(parser, "leave out the users that ROOT/erased names", required=False)
    add_columns(parser)
    add_min_age(parser)
    add_day_flags(parser)
    text = "parts of the users and of the pins"
    parser.add_argument("--buckets", type=positive, default=16, metavar="N", help=text)
    add_workers(parser)
    add_quiet(parser)
    return parser


def parse(argv: list[str]) -> ItemVectorsRequest:
    """Reads the flags of `pinnerformer item-vectors`.

    Raises:
        UsageError: with the line to show.
    """
    found, beam = parse_flags(make_parser(), argv)
    for name in ("width", "method", "norm", "seed", "lately"):
        if found.fold_in and getattr(found, name) is not None:
            raise UsageError(f"--{name}: the vectors of --fold-in {found.fold_in} are made already; leave it out")
    width = found.width or WIDTH
    if width < LEAST_WIDTH:
        raise UsageError(f"--width {width}: at least {LEAST_WIDTH}")
    lately_s = LATELY_S if found.lately is None else found.lately
    return ItemVectorsRequest(
        logs=found.logs,
        out=Root(found.out),
        until=found.until,
        start=found.start,
        content=found.content,
        fold_in=found.fold_in,
        method=found.method or "mix",
        norm=found.norm or "unit",
        width=width,
        seed=found.seed or 0,
        lately_days=lately_s / 86_400,
        rules=PairRules(found.window, int(found.within * 1000), found.most_pairs),
        neighbours=found.neighbours,
        least_engagements=found.least_engagements,
        columns=column_names(found),
        erased_root=Root(found.root) if found.root else None,
        min_age_s=found.min_age,
        days=PartitionDays(found.max_clock_skew, found.day_offset),
        buckets=found.buckets,
        beam=beam,
        workers=workers_wish(found, beam, found.beam_words),
        quiet=found.quiet,
    )

"""What `pinnerformer study` is asked for: its flags, read into one request."""

import argparse
import dataclasses
import datetime
import multiprocessing
import os

from pipelines.arguments import Parser, add_names, date, positive, seconds
from pipelines.study.grid import FULL, QUICK, SMALL, Size
from stores.column_names import OUR_NAMES, ColumnNames

DESCRIPTION = """\
Trains and measures the grid behind the paper's tables 1-4, 6 and 10 on timelines of yours: PinnerSage beside
PinnerFormer, inference frequencies, objectives, negatives with and without the log Q correction, one feature left out,
lengths and sizes, each beside its own start before training and beside simple baselines. Writes STUDY/reproduction.md,
the paper's tables beside yours, plots, and a verdict per row, with errors over users.

Learning rates, the training step that is kept and the baselines' settings are chosen by users of their own; figures are
of others. --folds K deals all users to K folds and reports each of them once, by models that neither trained nor chose
on them; --cuts adds windows in time. Small sets need both: the error is said before hours are spent.

Every cell (a model with a seed) is trained alike and small, so that the whole fits one machine. Finished cells are kept
in STUDY and not computed again: interrupt it, run the same command again. Objectives draw as many (position, label)
pairs a step. --levers trains what is no question of the paper's, and says which the choosing users like best.
"""

EPILOG = """\
example:
  pinnerformer study --timelines TIMELINES --pins WORLD/pins --out STUDY --quick
"""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the data of a study are.

    Attributes:
        timelines: Of `training-data`.
        pins: The vector set, for its topics; None: clusters of the vectors.
        cuts: First days of the windows; a number: so many windows, one before the other, the last ends with the data.
        days: Length of a window.
        folds: 1: the timelines' own split; more: all users are dealt to so many.
        columns: How the vectors call their columns.
    """

    timelines: str
    pins: str | None
    cuts: tuple[datetime.date, ...] | int
    days: int
    folds: int = 1
    columns: ColumnNames = OUR_NAMES


@dataclasses.dataclass(frozen=True)
class StudyRequest:
    """What `pinnerformer study` is asked for.

    Attributes:
        source: The data: timelines, vector set, windows, folds.
        out: Where cells, plots and the page go.
        size: Of models and training.
        seeds: Models per cell and fold.
        budget_s: No cell is started after so long.
        workers: Processes.
        new: Whether rows are judged by the recall of pins new to the user.
        levers: Whether the levers are trained, in place of the paper's grid.
        oracle: The folder of a synthetic world, to measure what its generator would know; None: not.
        title: Of the data, in the page.
        page: Where the page goes.
        beside: Finished studies that the page holds too.
    """

    source: Source
    out: str
    size: Size
    seeds: int
    budget_s: float
    workers: int
    new: bool
    levers: bool
    oracle: str | None
    title: str
    page: str
    beside: tuple[str, ...]

    @property
    def figure(self) -> str:
        """What rows are judged by."""
        return "recall_new" if self.new else "recall"


def cuts(text: str) -> tuple[datetime.date, ...] | int:
    """A flag's number of windows, or their first days, comma-separated."""
    if text.isdecimal():
        return positive(text)
    found = tuple(date(part) for part in text.split(","))
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} names a day twice")
    return found


def make_parser() -> Parser:
    """The flags of `pinnerformer study`."""
    parser = Parser(prog="pinnerformer study", description=DESCRIPTION, epilog=EPILOG, own=("pins",))
    parser.add_argument("--timelines", required=True, metavar="DIR", help="of `pinnerformer training-data`")
    parser.add_argument("--out", required=True, metavar="STUDY", help="where cells, plots and the page go")
    parser.add_argument("--pins", metavar="DIR", help="the vector set; its column `topic` is what entropy is of")
    add_names(parser)
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--quick", action="store_true", help="tiny models, one seed: minutes, to see it run")
    scale.add_argument("--small", action="store_true", help="small models, short training: a fraction of the time")
    parser.add_argument("--seeds", type=positive, help="models per cell (default 3; with --quick 1)")
    parser.add_argument("--steps", type=positive, help=f"of training (default {FULL.steps})")
    parser.add_argument("--budget", type=seconds, default="2h", metavar="2h", help="start no cell after")
    parser.add_argument("--workers", type=positive, default=multiprocessing.cpu_count(), help="processes")
    parser.add_argument(
        "--folds",
        type=positive,
        default=1,
        help="deal ALL users to so many, and report each once (default 1, the timelines' own evaluation users)",
    )
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--cut", type=date, metavar="DATE", help="first day of the window (default 14 days to the end)")
    when.add_argument(
        "--cuts", type=cuts, metavar="N|DATES", help="so many windows one before the other, or their first days: D1,D2"
    )
    parser.add_argument("--days", type=positive, default=14, help="length of a window")
    parser.add_argument("--new", action="store_true", help="judge by the recall of pins new to the user")
    parser.add_argument(
        "--levers", action="store_true", help="train what may make a better model, not the paper's grid"
    )
    parser.add_argument("--oracle", metavar="WORLD", help="the folder of `synth`: adds what its generator would know")
    parser.add_argument("--title", metavar="TEXT", help="of the data, in the page (default the timelines' folder)")
    parser.add_argument("--page", metavar="FILE", help="where the page goes (default STUDY/reproduction.md)")
    parser.add_argument("--beside", action="append", default=[], metavar="STUDY", help="finished studies for the page")
    return parser


def parse(argv: list[str]) -> StudyRequest:
    """Reads the flags of `pinnerformer study`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    size = QUICK if found.quick else SMALL if found.small else FULL
    if found.steps:  # a rate is tried for as long a share of it
        rate_steps = max(1, found.steps * size.rate_steps // size.steps)
        size = dataclasses.replace(
            size, steps=found.steps, rate_steps=rate_steps, checks=min(size.checks, found.steps, rate_steps)
        )
    when = found.cuts or ((found.cut,) if found.cut else 1)
    return StudyRequest(
        source=Source(found.timelines, found.pins, when, found.days, found.folds, ColumnNames.parse(found.column)),
        out=found.out,
        size=size,
        seeds=found.seeds or (1 if found.quick else 3),
        budget_s=found.budget,
        workers=found.workers,
        new=found.new,
        levers=found.levers,
        oracle=found.oracle,
        title=found.title or os.path.basename(os.path.abspath(found.timelines)),
        page=found.page or os.path.join(found.out, "reproduction.md"),
        beside=tuple(found.beside),
    )

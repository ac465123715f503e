"""What `pinnerformer evaluate` is asked for: its flags, read into one request."""

import dataclasses
import datetime
import itertools

from pinnerformer_model.evaluation_names import BASELINES, CHOOSE_BY, FREQUENCIES
from pipelines.arguments import Parser, add_json, add_names, date, positive
from stores.column_names import ColumnNames
from stores.errors import UsageError
from transforms.halves import HALVES

UNTRAINED = "untrained"

DESCRIPTION = """\
Measures models on the users that training did not see: what they engage with positively in the window, [cut, cut + 14
days), must be near the vector made of what they did before. Exact search, no index.

recall@10: a positive is a hit if fewer than 10 pins of the corpus are nearer to the user; a user's positives do not
compete with one another; pins of an equal score stand in random order. "new": pins that the user had never engaged
with, among such pins. "again": the others. entropy: of the topics among a user's 50 nearest pins, in nats. P90: the
smallest share of the corpus that makes up 90 % of all users' 10 nearest.

±: the standard error over users; of a difference, paired by user. Users that appear at several cuts are one draw.

once: one vector at the cut. daily: made again every midnight, so that a day's actions count from the next day on.
realtime: made again after every action.

Settings of the baselines (days of popularity, vectors in the mean, factors of ALS ...) are chosen on one half of the
users; every figure is of the other half. A setting that the other kind of recall would choose has a row of its own.

A model is refused that was trained on users asked, or on what lies in a window: see --allow-seen.
"""

EPILOG = """\
example:
  pinnerformer evaluate --timelines TIMELINES --pins WORLD/pins --model MODEL
"""


@dataclasses.dataclass(frozen=True)
class EvaluateRequest:
    """What `pinnerformer evaluate` is asked for.

    Attributes:
        models: Folders of what to measure.
        pins: The vector set, for its topics; None: clusters of the vectors.
        columns: How the vectors call their columns.
        cuts: First days of the windows; empty: one window, that ends with the data.
        days: Their length.
        k: Of recall@k.
        frequencies: How often vectors are made.
        corpus: `uniform` or `popular`.
        corpus_size: Pins at most.
        half: Of the users.
        choose_by: `new` or `all`: which kind of recall chooses the baselines' settings.
        baselines: Which are measured too: of `evaluation_names.BASELINES`, and `untrained`, the models' own initial
            weights.
        allow_seen: Measure models though they saw users or windows.
        oracle: The folder of a synthetic world, to measure what its generator would know; None: not.
        seed: Of the corpus.
        as_json: Whether programs read it.
    """

    timelines: str
    models: tuple[str, ...]
    pins: str | None
    columns: ColumnNames
    cuts: tuple[datetime.date, ...]
    days: int
    k: int
    frequencies: tuple[str, ...]
    corpus: str
    corpus_size: int
    half: str
    choose_by: str
    baselines: tuple[str, ...]
    allow_seen: bool
    oracle: str | None
    seed: int
    as_json: bool


def make_parser() -> Parser:
    """The flags of `pinnerformer evaluate`."""
    parser = Parser(prog="pinnerformer evaluate", description=DESCRIPTION, epilog=EPILOG, own=("model", "pins"))
    parser.add_argument("--timelines", required=True, metavar="DIR", help="of `pinnerformer training-data`")
    parser.add_argument("--model", action="append", default=[], metavar="DIR", help="what to measure; may be repeated")
    parser.add_argument("--pins", metavar="DIR", help="the vector set; its column `topic` is what entropy is of")
    add_names(parser)
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--cut", type=date, metavar="DATE", help="first day of the window (default 14 days to the end)")
    when.add_argument(
        "--cuts", type=date, nargs="+", default=[], metavar="DATE", help="several windows, pooled: for small sets"
    )
    parser.add_argument("--days", type=positive, default=14, help="length of the window")
    parser.add_argument("--k", type=positive, default=10, help="of recall@k")
    parser.add_argument(
        "--frequency", action="append", choices=FREQUENCIES, help="may be repeated (default once, daily and realtime)"
    )
    parser.add_argument(
        "--corpus",
        choices=("uniform", "popular"),
        default="uniform",
        help="popular: pins drawn in proportion to their positives in training, harder to beat",
    )
    parser.add_argument("--corpus-size", type=positive, default=1_000_000, help="pins at most")
    parser.add_argument("--half", choices=HALVES, default="report", help="of the users")
    parser.add_argument(
        "--choose-by",
        choices=CHOOSE_BY,
        default="new",
        help="the recall that chooses settings: of pins new to the user, or of all",
    )
    parser.add_argument("--no-baselines", action="store_true", help="the models only")
    parser.add_argument(
        "--baseline", action="append", choices=(UNTRAINED, *BASELINES), help="only these; may be repeated (default all)"
    )
    parser.add_argument(
        "--allow-seen", action="store_true", help="measure a model though it saw users or windows; the figures flatter"
    )
    parser.add_argument("--oracle", metavar="WORLD", help="the folder of `synth`: adds what its generator would know")
    parser.add_argument("--seed", type=int, default=0, help="of the corpus")
    add_json(parser)
    return parser


def parse(argv: list[str]) -> EvaluateRequest:
    """Reads the flags of `pinnerformer evaluate`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    if not found.model and found.no_baselines:
        raise UsageError("--no-baselines without a --model leaves nothing to measure")
    if found.baseline and found.no_baselines:
        raise UsageError("--no-baselines and --baseline contradict each other; give one of them")
    cuts = tuple(sorted(set(found.cuts or ([found.cut] if found.cut else []))))
    for first, second in itertools.pairwise(cuts):
        if second - first < datetime.timedelta(found.days):
            raise UsageError(
                f"--cuts: the windows from {first} and {second} overlap with --days {found.days}; a positive in both "
                "would count twice: move them apart, or give fewer --days"
            )
    return EvaluateRequest(
        timelines=found.timelines,
        models=tuple(found.model),
        pins=found.pins,
        columns=ColumnNames.parse(found.column),
        cuts=cuts,
        days=found.days,
        k=found.k,
        frequencies=tuple(found.frequency or FREQUENCIES),
        corpus=found.corpus,
        corpus_size=found.corpus_size,
        half=found.half,
        choose_by=found.choose_by,
        baselines=() if found.no_baselines else tuple(found.baseline or (UNTRAINED, *BASELINES)),
        allow_seen=found.allow_seen,
        oracle=found.oracle,
        seed=found.seed,
        as_json=found.json,
    )

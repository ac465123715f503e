"""What `pinnerformer item-vectors` is asked for, and what it decides before it starts."""

import dataclasses
import datetime
import hashlib
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from pinnerformer_model.days import DAY_MS, midnight_ms
from pipelines.arguments import (
    Parser,
    add_columns,
    add_day_flags,
    add_min_age,
    add_quiet,
    add_root,
    date,
    positive,
    seconds,
)
from pipelines.launch.beam_options import parse_flags
from pipelines.planning.id_kinds import check_erased_root, kinds_of
from stores import locations
from stores.errors import InputError, UsageError
from stores.files import Root
from stores.logs import ColumnNames, InputSelection, select_inputs
from stores.partitions import PartitionDays, list_partitions
from stores.pin_vectors import VERSION_FILE, WIDTH, list_vector_files
from stores.string_ids import INT64, STRING
from stores.vector_sets import MADE_BY, foreign_entry, read_manifest, vector_pin_ids, vector_width
from transforms.co_engagement import PairRules
from transforms.item_vectors import METHODS, NORMS, VectorSettings, check_libraries
from transforms.run import RunFolder

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

CONTENT_PART = 4  # content takes at most one in so many numbers of a vector
LEAST_WIDTH = 16
RUN_PREFIX = "item-vectors-"


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
    quiet: bool


@dataclasses.dataclass(frozen=True)
class ItemVectorsPlan:
    """Everything the job needs to know, decided before it starts.

    Attributes:
        settings: How vectors are made.
        facts: What the set is made of and how, as its manifest says it: the same facts, the same set.
        done: Whether `out` holds that set already.
        pin_ids: What the ids of the pins are, "int64" or "string".
    """

    run: RunFolder
    request: ItemVectorsRequest
    inputs: InputSelection
    settings: VectorSettings
    facts: dict[str, Any]
    done: bool
    pin_ids: str = INT64

    @property
    def name_shards(self) -> int:
        """How many own the strings that pins are; 0 where they are numbers."""
        return self.request.buckets if self.pin_ids == STRING else 0

    @property
    def before_ms(self) -> int:
        """The first moment that the vectors know nothing of."""
        return midnight_ms(self.request.until)


LATELY_S = 3 * 86_400.0


def make_parser() -> Parser:
    """The flags of `pinnerformer item-vectors`."""
    parser = Parser(prog="pinnerformer item-vectors", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--logs", required=True, metavar="DIR", help="engagement logs, ds=YYYY-MM-DD/*.parquet")
    parser.add_argument("--out", required=True, metavar="PINS", help="a new folder for the vector set")
    parser.add_argument("--until", required=True, type=date, metavar="DATE", help="knows nothing of this day and after")
    parser.add_argument("--start", type=date, metavar="DATE", help="the first partition to read (the first there is)")
    parser.add_argument("--content", metavar="VECTORS", help="a vector set of any width: what pins are about")
    parser.add_argument("--fold-in", metavar="SET", help="add pins to this vector set, in the space that stands")
    making = parser.add_argument_group("how vectors are made (of a set folded into: its own)")
    making.add_argument("--width", type=positive, metavar="N", help="numbers of a vector (256)")
    making.add_argument("--method", choices=METHODS, help="mix: ppmi-svd beside als (mix)")
    making.add_argument(
        "--norm", choices=NORMS, help="whether inner products know how popular a pin always was (unit: no)"
    )
    text = "half-life of what tells how popular a pin is lately; 0s: nothing does (3d)"
    making.add_argument("--lately", type=seconds, metavar="3d", help=text)
    making.add_argument("--seed", type=int, metavar="N", help="of what is drawn at random (0)")
    pairs = parser.add_argument_group("what is engaged with together")
    pairs.add_argument("--window", type=positive, default=30, metavar="N", help="engagements apart (%(default)s)")
    pairs.add_argument("--within", type=seconds, default="30d", metavar="30d", help="and time apart (%(default)s)")
    text = "of one user, the nearest first (%(default)s)"
    pairs.add_argument("--most-pairs", type=positive, default=1_000_000, metavar="N", help=text)
    pairs.add_argument("--neighbours", type=positive, default=100, metavar="N", help="kept of a pin (%(default)s)")
    text = "of a pin that has neighbours (%(default)s)"
    pairs.add_argument("--least-engagements", type=positive, default=5, metavar="N", help=text)
    add_root(parser, "leave out the users that ROOT/erased names", required=False)
    add_columns(parser)
    add_min_age(parser)
    add_day_flags(parser)
    text = "parts of the users and of the pins (default %(default)s)"
    parser.add_argument("--buckets", type=positive, default=16, metavar="N", help=text)
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
        columns=ColumnNames.parse(found.column),
        erased_root=Root(found.root) if found.root else None,
        min_age_s=found.min_age,
        days=PartitionDays(found.max_clock_skew, found.day_offset),
        buckets=found.buckets,
        beam=beam,
        quiet=found.quiet,
    )


def plan_item_vectors(request: ItemVectorsRequest) -> ItemVectorsPlan:
    """Looks at everything the job was given and refuses what cannot work, before any work starts.

    Raises:
        PinnerFormerError: names the file or flag, and what to do.
    """
    standing = read_standing(request) if request.fold_in else None
    settings = make_settings(request, standing)
    rules = dataclasses.replace(request.rules, half_life_ms=round(settings.lately_days * DAY_MS))
    request = dataclasses.replace(request, rules=rules)
    check_libraries(settings.method if standing is None else "ppmi-svd")
    inputs = select_logs(request)
    pin_ids = check_kinds(request, inputs)
    facts = {
        "made_by": MADE_BY,
        "until": request.until.isoformat(),
        "start": min(inputs.partitions).isoformat(),
        "settings": dataclasses.asdict(settings),
        "pairs": {**dataclasses.asdict(request.rules), "neighbours": request.neighbours},
        "inputs": digest_of([(file.name, file.rows, file.footer) for file in inputs.files]),
        "content": describe_folder(request.content),
        "fold_in": standing["pinsage_version"] if standing else None,
        "fold_in_until": standing["until"] if standing else None,
    }
    done = check_out(request.out, facts)
    name = digest_of(facts)[:12]
    return ItemVectorsPlan(
        RunFolder(request.out, f"{RUN_PREFIX}{request.until}-{name}"), request, inputs, settings, facts, done, pin_ids
    )


def check_kinds(request: ItemVectorsRequest, inputs: InputSelection) -> str:
    """What the ids of the pins are, in logs and vector sets alike.

    Raises:
        InputError: they are numbers here and strings there, or users of ROOT/erased are of another kind than the logs'.
    """
    kinds = kinds_of(inputs.files, request.columns)
    pin_ids = kinds.get("pin_ids", INT64)
    for flag, folder in (("--content", request.content), ("--fold-in", request.fold_in)):
        found = vector_pin_ids(folder, flag) if folder else pin_ids
        if found != pin_ids:
            raise InputError(
                f"{flag} {folder}: its pin_id is of {found}, and the pins of the logs are of {pin_ids}; write them as "
                "one kind"
            )
    check_erased_root(request.erased_root, inputs.files, request.columns)
    return pin_ids


def select_logs(request: ItemVectorsRequest) -> InputSelection:
    """The log files of the partitions before `--until`.

    Raises:
        UsageError, InputError: there is none, or one is missing or not complete.
    """
    oldest = min(list_partitions(request.logs))
    first = request.start or oldest
    last = request.until - datetime.timedelta(1)
    if last < first:
        what = "--start" if request.start else f"the first partition of {request.logs}"
        raise UsageError(f"--until {request.until}: {what} is {first}; nothing lies between, give a later --until")
    return select_inputs(
        request.logs,
        first=first,
        last=last,
        lookback=0,
        chain_start=first,
        already_read={},
        min_age_s=request.min_age_s,
        columns=request.columns,
        days=request.days,
    )


def read_standing(request: ItemVectorsRequest) -> dict[str, Any]:
    """The manifest of the set that is folded into.

    Raises:
        InputError, UsageError: it was not made here, or knows more than --until allows.
    """
    path = locations.join(locations.absolute(request.fold_in or ""), VERSION_FILE)
    found = read_manifest(request.fold_in or "")
    if found is None or found.get("made_by") != MADE_BY:
        raise InputError(f"{path}: no vector set of `pinnerformer item-vectors`; only into such a one pins are folded")
    if request.until.isoformat() < found["until"]:
        raise UsageError(
            f"--until {request.until}: the vectors of --fold-in {request.fold_in} know what was before "
            f"{found['until']}; give that day or a later one"
        )
    return found


def make_settings(request: ItemVectorsRequest, standing: dict[str, Any] | None) -> VectorSettings:
    """How vectors are made: as asked, or as the set that is folded into was.

    Raises:
        InputError: content of another width than that set's.
    """
    content = vector_width(request.content, "--content") if request.content else 0
    if standing is None:
        part = min(content, request.width // CONTENT_PART)
        return VectorSettings(
            request.method,
            request.norm,
            request.width,
            part,
            request.least_engagements,
            request.seed,
            request.lately_days,
        )
    theirs = standing["counts"]["content_width"]
    if content and content != theirs:
        raise InputError(
            f"--content {request.content}: vectors are {content} wide, --fold-in {request.fold_in} was made with "
            f"{f'{theirs} wide ones' if theirs else 'none'}; give content of the same space, or leave it out"
        )
    return VectorSettings(**standing["settings"])


def describe_folder(folder: str | None) -> list[list[Any]] | None:
    """Name and size of every file of a vector set; None for none."""
    if folder is None:
        return None
    return [[file.name, file.bytes] for file in list_vector_files(locations.absolute(folder))]


def check_out(out: Root, facts: dict[str, Any]) -> bool:
    """Whether a folder holds the set that is asked for already; False where there is room for it.

    Raises:
        UsageError: it holds another one, or something else.
    """
    found = read_manifest(out.url)
    if found is not None or out.exists(VERSION_FILE):
        differ = sorted(name for name, value in facts.items() if (found or {}).get(name) != value)
        if differ:
            raise UsageError(
                f"--out {out.url}: holds a vector set already, made otherwise ({', '.join(differ)}); name a new "
                "folder: models and releases that use this one need it as it is"
            )
        return True
    foreign = foreign_entry(out.url)
    if foreign:
        raise UsageError(f"--out {out.url}: holds {foreign}, which is no vector set of ours; name a new folder")
    return False


def digest_of(value: Any) -> str:
    """Hex sha256 of a value's text."""
    return hashlib.sha256(repr(value).encode()).hexdigest()

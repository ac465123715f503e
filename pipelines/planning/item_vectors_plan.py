"""What `pinnerformer item-vectors` is asked for, and what it decides before it starts."""

import dataclasses
import datetime
import hashlib
from typing import Any

from pinnerformer_model.days import DAY_MS, midnight_ms
from pipelines.planning.id_kinds import check_erased_root, kinds_of
from pipelines.planning.item_vectors_request import ItemVectorsRequest
from stores import locations
from stores.column_names import OUR_NAMES
from stores.errors import InputError, UsageError
from stores.files import Root
from stores.logs import InputSelection, select_inputs
from stores.partitions import list_partitions
from stores.pin_vectors import list_vector_files
from stores.string_ids import INT64, STRING
from stores.vector_sets import MADE_BY, foreign_entry, read_manifest, vector_pin_ids, vector_width
from stores.vector_version import VERSION_FILE
from transforms.item_vectors import VectorSettings, check_libraries
from transforms.run import RunFolder

CONTENT_PART = 4  # content takes at most one in so many numbers of a vector
RUN_PREFIX = "item-vectors-"


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
    sets = (("--content", request.content, request.columns), ("--fold-in", request.fold_in, OUR_NAMES))
    for flag, folder, columns in sets:
        found = vector_pin_ids(folder, flag, columns) if folder else pin_ids
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
        way = "; more pins of another set: `import --vectors FILE --replace --vectors-version` with the name it has"
        raise InputError(
            f"{path}: no vector set of `pinnerformer item-vectors`; only into such a one pins are folded"
            f"{way if found else ''}"
        )
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
    content = vector_width(request.content, "--content", request.columns) if request.content else 0
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

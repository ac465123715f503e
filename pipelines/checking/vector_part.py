"""The vectors of pins before a night: files, width, norms, what is there twice; and the pins of the logs among them."""

import dataclasses
import datetime
import shlex
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pinnerformer_model.config import ModelConfig
from pipelines.checking.findings import Finding, Level, Part, count, share
from pipelines.checking.log_part import LogsFound
from pipelines.checking.log_rows import find_names
from pipelines.checking.samples import SALT, CountedIds, Watch, choose
from pipelines.configuration.look import look_at_vectors as recognise_vectors
from stores import locations
from stores.column_names import PINS, ColumnNames
from stores.errors import InputError
from stores.id_columns import inner_column
from stores.ids import find_sorted
from stores.pin_vectors import VectorSet, describe_vectors, open_vector_file, read_vectors
from stores.vector_columns import norms_of
from stores.vector_sets import MADE_BY, read_manifest
from stores.vector_version import VERSION_FILE, read_version
from transforms.gates import Thresholds
from transforms.sort_vectors import VectorGroup, refuse_repeated, vector_groups

SHOWN = 3
MOST_BYTES = 1 << 30  # of vectors that are read, a row group at a time
MOST_TWINS = 1 << 20  # vectors that are compared for equality
ALIKE = 0.9  # a mean of unit vectors so long is as if most were the same


@dataclasses.dataclass
class VectorFigures:
    """What the vectors looked at are.

    Attributes:
        norms: float64 pieces, of those that are not all zeros.
        zeros: Ids of pins whose vector is all zeros.
        sum: float64 [D], of the unit vectors.
        prints: uint64 pieces: a fingerprint of each vector, for equal ones.
    """

    rows: int = 0
    norms: list[np.ndarray] = dataclasses.field(default_factory=list)
    zeros: list[np.ndarray] = dataclasses.field(default_factory=list)
    sum: np.ndarray | float = 0.0
    prints: list[np.ndarray] = dataclasses.field(default_factory=list)

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        norms = norms_of(vectors)
        full = norms > 0
        self.rows += len(ids)
        self.norms.append(norms[full])
        self.zeros.append(ids[~full])
        self.sum = self.sum + (vectors[full].astype(np.float64) / norms[full, None]).sum(axis=0)
        if sum(map(len, self.prints)) < MOST_TWINS:
            self.prints.append(fingerprints(vectors[full]))

    @property
    def likeness(self) -> float:
        """How long the mean of the unit vectors is: 0 in all directions, 1 all the same."""
        usable = sum(map(len, self.norms))
        return float(np.linalg.norm(self.sum)) / usable if usable else 0.0

    @property
    def twins(self) -> int:
        """How many vectors equal one before them."""
        prints = np.concatenate([np.empty(0, np.uint64), *self.prints])
        return len(prints) - len(np.unique(prints))


def fingerprints(vectors: np.ndarray) -> np.ndarray:
    """uint64 [N]: equal for equal rows of [N, D]; others are hardly ever."""
    words = np.random.default_rng(SALT).integers(1, 1 << 63, vectors.shape[1], np.uint64) | np.uint64(1)
    bits = np.ascontiguousarray(vectors).view(np.dtype(f"u{vectors.dtype.itemsize}")).astype(np.uint64)
    return (bits * words).sum(axis=1, dtype=np.uint64)


@dataclasses.dataclass(frozen=True)
class VectorsAsked:
    """What of the vectors is looked at, and as what.

    Attributes:
        columns: As logs and vectors call them, with what the findings on the logs mend.
        most_rows: Vectors that are looked at; 0: all.
    """

    pins: str
    columns: ColumnNames
    most_rows: int
    thresholds: Thresholds


def look_at_vectors(asked: VectorsAsked, logs: LogsFound | None, watch: Watch) -> tuple[Part, ColumnNames | None]:
    """Looks at a vector set, and for the pins of the logs in it; writes nothing.

    Returns:
        The part; beside it the columns under which the set can be read, None if it cannot.
    """
    part, pins = Part("vectors"), asked.pins
    try:
        version = read_version(pins)
        found, columns = describe_mended(part, asked, version)
    except InputError as error:
        part.headline = f"{pins}: cannot be read"
        path = locations.join(locations.absolute(pins), VERSION_FILE)
        lacks = str(error).startswith(f"{path}: missing") and "://" not in pins and locations.exists(pins)
        part.refuse(error, commands=(make_version(path),) if lacks else ())
        return part, None
    part.headline = (
        f"{count(found.rows, 'pin')}, {found.width} wide, {found.dtype}, {count(len(found.files), 'file')}, "
        f"{found.nbytes / 1e6:,.1f} MB, version {version}"
    )
    part.figures |= {"pins": found.rows, "width": found.width, "dtype": found.dtype, "version": version}
    ids = look_at_ids(part, found, asked.most_rows, watch)
    if logs is not None and ids is not None:
        compare_with_logs(part, asked, found, ids, logs)
    if logs is not None and not made_here(pins):
        part.findings.append(lead_to_content(pins, logs))
    return part, columns


def describe_mended(part: Part, asked: VectorsAsked, version: str) -> tuple[VectorSet, ColumnNames]:
    """The set as the night would describe it; where its columns have other names, under those, which is found.

    Raises:
        InputError: as `describe_vectors`.
    """
    try:
        return describe_vectors(asked.pins, version, None, asked.columns), asked.columns
    except InputError as error:
        try:
            seen = recognise_vectors(asked.pins)
        except InputError:
            raise error from None
        names = dict(asked.columns.names)
        meant = {"vector": seen.vector, f"{PINS}pin_id": seen.pin}
        added = {name: theirs for name, theirs in meant.items() if theirs not in ("vector", "pin_id")}
        if seen.pin == names.get("pin_id"):  # which is looked for anyway
            added.pop(f"{PINS}pin_id", None)
        columns = dataclasses.replace(asked.columns, names=tuple(sorted({**names, **added}.items())))
        if not added:
            raise
        found = describe_vectors(asked.pins, version, None, columns)
        part.refuse(error, flags=tuple(("column", f"{name}={theirs}") for name, theirs in added.items()))
        return found, columns


def compare_with_model(
    part: Part, pins: str, columns: ColumnNames, config: ModelConfig, logs: LogsFound | None
) -> None:
    """Whether the vectors are of the space that the model was made for, by the check that the night makes."""
    try:
        describe_vectors(pins, config.pinsage_version, config.pin_vector_dim, columns)
    except InputError as error:
        commands = []
        if logs is not None and not config.until:  # a model of initial weights is soon made again
            where, theirs = shlex.quote(logs.location), shlex.quote(locations.absolute(pins))
            commands.append(f"pinnerformer init-model --logs {where} --pins {theirs} --out model-2")
        part.refuse(error, commands=tuple(commands))


def make_version(path: str) -> str:
    """A line for a shell that gives a vector set a version."""
    return f"""echo '{{"pinsage_version": "v1"}}' > {shlex.quote(path)}"""


def look_at_ids(part: Part, found: VectorSet, most_rows: int, watch: Watch) -> CountedIds | None:
    """Reads vectors as the night does, of very many a sample, and every id; puts their figures into the part.

    Returns:
        The pins that have a vector; None where a row group cannot be read.
    """
    groups = vector_groups(found)
    rows_a_group = -(-found.rows // max(1, len(groups)))
    most = min(most_rows, MOST_BYTES // max(1, found.nbytes // max(1, found.rows))) if most_rows else 0
    looked_at = choose(groups, lambda one: one.task, lambda one: rows_a_group, most)
    figures, ids, refused = VectorFigures(), CountedIds(), list[str]()
    read = {one.task for one in looked_at.things}
    for group in watch.over(groups, "vectors"):
        try:
            if group.task in read:
                some, vectors = read_vectors(group.file, group.index)
                figures.add(some, vectors)
            else:
                some = read_ids(group)
        except InputError as error:
            refused.append(str(error))
            continue
        ids.add(some)
    for text in refused[:SHOWN]:
        part.find(Level.STOPS, text)
    if len(refused) > SHOWN:
        part.find(Level.STOPS, f"{count(len(refused) - SHOWN, 'more row group')} with rows like these")
    try:
        refuse_repeated(np.repeat(*ids.counted()), "among those looked at" if ids.share < 1 else "in all")
    except InputError as error:
        distinct, times = ids.counted()
        part.refuse(error, sample=tuple(f"pin {name}" for name in find_pin_names(groups, distinct[times > 1][:SHOWN])))
    zeros = np.concatenate([np.empty(0, np.int64), *figures.zeros])[:SHOWN]
    names = find_pin_names(groups, zeros) if not refused else []
    remark = "" if looked_at.is_all else f"of a sample, {figures.rows:,} of {found.rows:,}"
    describe(part, figures, remark, tuple(f"pin {name}" for name in names))
    return None if refused else without(ids, figures)


def read_ids(group: VectorGroup) -> np.ndarray:
    """int64 [N]: the ids of a row group, as far as they are not null; whether they are fit is for others to say."""
    column = id_column(group)
    if not pa.types.is_integer(column.type):  # strings are hashed where vectors are read
        return read_vectors(group.file, group.index)[0]
    return column.drop_null().cast(pa.int64(), safe=False).to_numpy()


def id_column(group: VectorGroup) -> pa.ChunkedArray:
    """The ids of a row group, as they are stored."""
    name = group.file.columns.pin_id
    with open_vector_file(group.file.path) as source:
        return source.read_row_group(group.index, columns=[name], use_threads=False)[name]


def find_pin_names(groups: Sequence[VectorGroup], pins: np.ndarray) -> list[str]:
    """What the set calls some pins that it has, in their order; groups are read until all of them are found."""
    found: dict[int, str] = {}
    for group in groups:
        if len(found) == len(pins):
            break
        column = id_column(group)
        ids = inner_column(column).to_numpy()
        found |= {int(ids[row]): str(column[row].as_py()) for row in np.flatnonzero(np.isin(ids, pins)).tolist()}
    return [found[int(pin)] for pin in pins if int(pin) in found]


def without(ids: CountedIds, figures: VectorFigures) -> CountedIds:
    """The pins but for those whose vector is all zeros: pins without a vector."""
    zeros = np.concatenate([np.empty(0, np.int64), *figures.zeros])
    if not len(zeros):
        return ids
    left = CountedIds()
    left.share = ids.share
    every = ids.counted()[0]
    left.add(every[~np.isin(every, zeros)])
    return left


def describe(part: Part, figures: VectorFigures, remark: str, zero_pins: tuple[str, ...]) -> None:
    """Puts what vectors look like into the part.

    Args:
        remark: What has to be said of figures of a sample.
        zero_pins: A few of those whose vector is all zeros.
    """
    norms = np.concatenate([np.empty(0), *figures.norms])
    zeros = sum(map(len, figures.zeros))
    part.figures |= {"vectors_looked_at": figures.rows, "zeros": zeros, "twins": figures.twins}
    if remark:
        part.add("vectors looked at", f"{figures.rows:,}", remark)
    if not len(norms):
        if figures.rows:
            part.find(Level.CLOSES, "every vector looked at is all zeros: no pin has a vector, and pins_present closes")
        return
    low, middle, high = np.percentile(norms, (0, 50, 100)).tolist()
    part.add("norms", f"{middle:.3g}", f"median; {low:.3g} to {high:.3g}")
    part.figures |= {"norms": {"least": low, "median": middle, "most": high}, "likeness": round(figures.likeness, 4)}
    part.add(
        "likeness", f"{figures.likeness:.2f}", "length of the mean unit vector: 0 in all directions, 1 all the same"
    )
    if zeros:
        text = f"{count(zeros, 'vector')} of {figures.rows:,} are all zeros: pins without a vector"
        part.find(Level.LOSES, text, sample=zero_pins)
    if figures.twins:
        part.find(
            Level.NOTE,
            f"{count(figures.twins, 'vector')} of {figures.rows:,} equal another's: no search tells such pins apart",
        )
    if figures.likeness > ALIKE:
        part.find(
            Level.NOTE,
            f"the vectors have much in common (their mean is {figures.likeness:.2f} long), and users' vectors will be "
            "alike, so that the gate users_alike may close: train a model, or `init-model --start-ridge 1`",
        )


def compare_with_logs(part: Part, asked: VectorsAsked, found: VectorSet, ids: CountedIds, logs: LogsFound) -> None:
    """How many pins of the logs have a vector, by rows and by pins."""
    pins, thresholds = asked.pins, asked.thresholds
    drawn = min(ids.share, logs.rows.pins.share)
    (theirs, rows), (ours, _) = logs.rows.pins.counted(drawn), ids.counted(drawn)
    if not len(theirs):
        return
    has = find_sorted(ours, theirs)[1]
    missing = 1 - rows[has].sum() / rows.sum()
    part.figures["of_logs"] = {
        "pins": round(len(theirs) / drawn),
        "pins_with_vector": round(int(has.sum()) / drawn),
        "share_of_rows_with_vector": round(1 - float(missing), 6),
    }
    about = "about " if drawn < 1 else ""
    figure = f"{about}{share(int(has.sum()), len(theirs))} of them"
    part.add("pins of the logs", figure, f"have a vector; {share(1 - missing, 1)} of the rows")
    if missing <= 0:
        return
    order = np.argsort(-np.where(has, 0, rows), kind="stable")
    order = order[: min(SHOWN, int((~has).sum()))]
    names = find_names((one.group for one in logs.looked_at.things), logs.columns, theirs[order])
    seen = tuple(f"pin {names.get(int(theirs[n]), theirs[n])}: {count(int(rows[n]), 'row')}" for n in order)
    if not has.any():
        known = ", ".join(find_pin_names(vector_groups(found), ours[:SHOWN]))
        part.find(
            Level.CLOSES,
            f"no pin of the logs has a vector: are the ids of two kinds? the vectors have {known}",
            sample=seen,
        )
        return
    limit = thresholds.max_vectorless_share
    text = f"{share(missing, 1)} of the rows are of {count(round(int((~has).sum()) / drawn), 'pin')} without a vector"
    if missing > limit:
        text += f", and the gate vectorless_share closes above {share(limit, 1)}"
    level = Level.CLOSES if missing > limit else Level.LOSES
    part.find(level, text, sample=seen, commands=fold_in(pins, logs))


def made_here(pins: str) -> bool:
    """Whether `item-vectors` made a set, so that pins can be folded in."""
    return (read_manifest(pins) or {}).get("made_by") == MADE_BY


def lead_to_content(pins: str, logs: LogsFound) -> Finding:
    """What to type where vectors may say no more than what pins are about."""
    until = logs.newest + datetime.timedelta(1)
    return Finding(
        Level.NOTE,
        "vectors of text or pictures? they say nothing of who engages with what: `item-vectors` puts that beside them",
        commands=(
            f"pinnerformer item-vectors --logs {shlex.quote(logs.location)} --until {until} "
            f"--content {shlex.quote(locations.absolute(pins))} --out pins-2",
        ),
    )


def fold_in(pins: str, logs: LogsFound) -> tuple[str, ...]:
    """The command that gives new pins a vector, of a set that can be folded into."""
    if not made_here(pins):
        return ()
    until = logs.newest + datetime.timedelta(1)
    where = shlex.quote(locations.absolute(pins))
    return (
        f"pinnerformer item-vectors --fold-in {where} --logs {shlex.quote(logs.location)} --until {until} "
        f"--out {where}-{until}",
    )

"""A root of other counts, made of a release of one: the same rows in other buckets and shards, and new indexes.

The part of an id is its hash modulo the count. So of old and new parts only those share ids that have one remainder
modulo the counts' greatest common divisor: such a group is a task, and where both counts are powers of two it is one
part that is cut into several, or several that become one. Nothing larger than a part is held in memory.
"""

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from stores.errors import StoreError, UsageError
from stores.files import FileEntry, Root
from stores.ids import bucket_of
from stores.indexes import IndexParameters, builder_id
from stores.layout import ID_FIELDS, Layout, open_layout, read_root_id
from stores.manifests import Manifest, manifest_path, read_entry, write_manifest
from stores.names import Counter, Step
from stores.pin_shards import PIN_SHARDS, built_with, index_facts
from stores.releases import chain, current_release, move_current
from stores.retention import slim
from stores.tables import KNOWN_TABLES, PIN_NAMES, USER_NAMES, read_files, write_part, write_rows
from stores.upgrades import read_settings
from stores.user_lists import ERASED, read_erased
from transforms.engagements import sorted_vocabulary, to_engagements, to_table
from transforms.gates import StagedRelease, Thresholds, check_gates
from transforms.gates.recall import index_recall_at_10, index_settings
from transforms.grow_index import index_shard
from transforms.step_reports import StepReport

OF_USERS, OF_PINS = ("histories", "user_embeddings", USER_NAMES), ("pin_embeddings", PIN_NAMES)
BEGUN = "rebucket.json"  # there while a root is being made, or was cut off: no CURRENT names anything then
STAGING = "staging/rebucket"
COPY_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class Rebucketing:
    """What is made of what.

    Attributes:
        source: The old root, of which nobody removes a file meanwhile.
        manifest: Of the release; the files it names are sound.
        out: The new root.
        before: The old root's layout.
        layout: Of the new root; all but the counts as the old one's.
        file_mode: Of both roots' files, octal digits; None: what the umask says.
        say: Is told how far the work is, in words.
    """

    source: Root
    manifest: Manifest
    out: Root
    before: Layout
    layout: Layout
    file_mode: str | None
    say: Callable[[str], None]

    def counts(self, key: str) -> tuple[int, int]:
        """Old and new number of parts of tables of a key."""
        name = "user_buckets" if key == "user_id" else "pin_shards"
        return getattr(self.before, name), getattr(self.layout, name)


@dataclasses.dataclass(frozen=True)
class Made:
    """What a task made: its files, and what it measured."""

    files: list[FileEntry]
    figures: dict[str, int] = dataclasses.field(default_factory=dict)


def group_parts(old: int, new: int) -> list[tuple[list[int], list[int]]]:
    """Old and new parts that share ids with each other and with no others.

    Args:
        old, new: Counts of parts.
    """
    common = math.gcd(old, new)
    return [(list(range(rest, old, common)), list(range(rest, new, common))) for rest in range(common)]


def cut_rows(rows: pa.Table, key: str, count: int, parts: Sequence[int]) -> Iterator[tuple[int, pa.Table]]:
    """Yields (part, its rows in their order), for every one of some parts, those without rows too.

    Args:
        rows: With an int64 column `key`.
        count: Of all parts.
    """
    part = bucket_of(rows[key].to_numpy(), count)
    order = np.argsort(part, kind="stable")
    begin, end = (np.searchsorted(part[order], parts, side=side) for side in ("left", "right"))
    for number, first, last in zip(parts, begin.tolist(), end.tolist(), strict=True):
        yield number, rows.take(pa.array(order[first:last]))


def join_rows(pieces: Sequence[pa.Table], key: str) -> pa.Table:
    """The rows of some pieces sorted by id, as a night would write them.

    Args:
        pieces: Each sorted by `key`; all rows of an id are in one of them, and stay in their order.
    """
    rows = pa.concat_tables([piece.replace_schema_metadata(None) for piece in pieces])
    order = np.argsort(rows[key].to_numpy(), kind="stable")
    if "action" not in rows.schema.names:
        return rows.combine_chunks().take(pa.array(order)).combine_chunks()
    # Encoded again: pieces have the words of the part that they come from, and equal rows must give equal bytes.
    actions, surfaces = sorted_vocabulary([rows["action"]]), sorted_vocabulary([rows["surface"]])
    return to_table(to_engagements(rows, actions, surfaces).take(order), actions, surfaces)


def begin(job: Rebucketing) -> None:
    """Takes a folder for a new root, or one that an attempt of the same work was cut off in.

    Raises:
        UsageError: it holds something else.
    """
    out = job.out
    content = json.dumps(job.manifest.to_json(), sort_keys=True)
    mine = {
        "root": read_root_id(job.source),
        "release": job.manifest.release,
        "manifest": hashlib.sha256(content.encode()).hexdigest(),
        "layout": job.layout.to_json(),
        "index": builder_id(),
    }
    data = (json.dumps(mine, indent=1) + "\n").encode()
    names = [name for name in out.list("") if not name.startswith(".")]
    if not names and out.compare_and_swap(BEGUN, None, data):
        return
    try:
        found = out.read_bytes(BEGUN)
    except FileNotFoundError:
        raise UsageError(
            f"--out {out.url}: is there already, with {', '.join(names[:3])}; name a folder that is not"
        ) from None
    if found != data:
        raise UsageError(
            f"{out.path(BEGUN)}: a `rebucket` was cut off here that was given something else, or the release has been "
            f"written again since; remove {out.url} and type this again"
        )


def rebucket(job: Rebucketing) -> Manifest:
    """Makes the new root, which is none until its CURRENT is written, last; done again, it goes on where it stopped.

    Returns:
        The manifest of its release.

    Raises:
        StoreError: a damaged file, or users in it whose erasure was cut off.
    """
    if current_release(job.out) is None:
        manifest = with_tables(job)
        copy_what_stands_beside(job)
        # The chain behind it says what was read, which the next night asks for; older tables stay in the old root.
        for older in list(chain(job.source, job.manifest.release))[1:]:
            left = [name for name in older.tables if name not in older.dropped]
            write_manifest(job.out, slim(older, left) if left else older)
        write_manifest(job.out, manifest)
        kept = {
            name: getattr(job.layout, name) for name in ("user_buckets", "pin_shards", "history_length", *ID_FIELDS)
        }
        open_layout(job.out, kept, job.file_mode)
        move_current(job.out, None, manifest.release)
    job.out.remove(STAGING)
    job.out.remove(BEGUN)
    return next(chain(job.out))


def with_tables(job: Rebucketing) -> Manifest:
    """The release's manifest with the new tables in it; every row of the old ones is in them, or it is refused."""
    old = job.manifest
    if unknown := set(old.tables) - set(KNOWN_TABLES):
        raise StoreError(
            f"{job.source.path(manifest_path(old.release))}: has tables that this version does not know: "
            f"{', '.join(sorted(unknown))}; rebucket with the version that made them"
        )
    tables, figures = dict(old.tables), []
    for keys, names in (("user_id", OF_USERS), ("pin_id", OF_PINS)):
        for table in (name for name in names if name in old.tables):
            tables[table] = move_table(job, table, keys)
    tables["canaries"] = [copy_file(job.source, entry, job.out) for entry in old.tables["canaries"]]
    before, shards = job.counts("pin_id")
    if before == shards:
        tables["indexes"] = [copy_file(job.source, entry, job.out) for entry in old.tables["indexes"]]
    else:
        built = list(index_shards(job, tables["pin_embeddings"]))
        tables["indexes"] = [entry for made in built for entry in made.files]
        figures = [made.figures for made in built]
    for table, entries in tables.items():
        rows, wanted = sum(entry.rows for entry in entries), sum(entry.rows for entry in old.tables[table])
        if rows != wanted and table != "indexes":
            raise StoreError(
                f"{job.out.url}: {table} has {rows:,} rows, {old.release} has {wanted:,}; nothing was made"
            )
    settings = {**old.settings, "layout": job.layout.to_json()}
    # The run that made it has no folder here: nothing may advise to release it again.
    came = {"root": read_root_id(job.source), "run": settings.pop("run", None)}
    settings["rebucketed"] = {**came, "user_buckets": job.before.user_buckets, "pin_shards": job.before.pin_shards}
    made = dataclasses.replace(old, tables=tables, settings=settings)
    return with_index_figures(job, made, figures) if figures else made


def with_index_figures(job: Rebucketing, manifest: Manifest, figures: Sequence[dict[str, int]]) -> Manifest:
    """A manifest with what was counted of new indexes, what they are made of, and the width they are searched with.

    The next night keeps them, as far as their pins are what they were: of its vectors it finds each pin's digest, and
    of no shard's table a checksum, since that table was never made.

    Raises:
        StoreError: they find too little; says what may help.
    """
    total = {name: sum(one[name] for one in figures) for name in figures[0] if name not in ("part", "find_ef")}
    built = built_with(read_settings(IndexParameters, manifest.settings["index"]))
    facts = {
        str(one["part"]): {"vectors": "", **index_facts(built, [(one["find_ef"], one[Counter.PINS_UNFINDABLE])])}
        for one in figures
    }
    statistics = (
        {**manifest.statistics, PIN_SHARDS: facts} if PIN_SHARDS in manifest.statistics else manifest.statistics
    )
    counters = {**manifest.counters, Step.BUILD_INDEXES: total}
    reports = {Step.BUILD_INDEXES: StepReport(highest={"find_ef": max(one["find_ef"] for one in figures)})}
    manifest = dataclasses.replace(manifest, counters=counters, statistics=statistics)
    job.say("recall of the new indexes")
    thresholds = Thresholds.from_manifest(manifest.settings["thresholds"])
    staged = StagedRelease(job.out, manifest, reports, [], thresholds)
    for gate in check_gates((index_recall_at_10,), staged):
        if not gate.passed:
            raise StoreError(
                f"{job.out.url}: {gate.reads}: {gate.measured:.4f}, and {gate.threshold:g} is asked for; give another "
                "number of --pin-shards"
            )
    index = {**manifest.settings["index"], **index_settings(staged)}
    return dataclasses.replace(manifest, settings={**manifest.settings, "index": index})


def move_table(job: Rebucketing, table: str, key: str) -> list[FileEntry]:
    """The files of a table under the new root, by part; a table whose parts stay is copied."""
    (old, new), parts = job.counts(key), job.manifest.parts(table)
    if old == new:
        return [copy_file(job.source, entry, job.out) for entries in parts.values() for entry in entries]
    files: list[FileEntry] = []
    groups = group_parts(old, new)
    for number, (before, after) in enumerate(groups):

        def move(before: list[int] = before, after: list[int] = after) -> Made:
            return Made(move_group(job, table, key, [parts[part] for part in before if part in parts], after))

        files += make_once(job, f"{table}-{number:05d}", move).files
        job.say(f"{table}: {number + 1:,} of {len(groups):,} groups of parts")
    return sorted(files, key=lambda entry: entry.part)


def move_group(
    job: Rebucketing, table: str, key: str, given: Sequence[list[FileEntry]], parts: Sequence[int]
) -> list[FileEntry]:
    """Some new parts of a table, of the old parts that hold their rows.

    Args:
        given: The files of each of those.
    """
    _, count = job.counts(key)
    erased = read_erased(job.source) if key == "user_id" else np.empty(0, np.int64)

    def read(root: Root, entries: list[FileEntry]) -> pa.Table:
        rows = read_files(root, entries, verify=True)
        if np.isin(rows[key].to_numpy(), erased).any():
            raise StoreError(
                f"{root.path(entries[0].path)}: holds users that {root.path(ERASED)} names: an erasure was cut off; "
                "type `pinnerformer erase` again, then this"
            )
        return rows

    def write(part: int, pieces: Sequence[pa.Table]) -> FileEntry:
        return write_part(job.out, table, job.manifest.day, part, join_rows(pieces, key))

    if len(given) == 1:
        rows = read(job.source, given[0])
        return [write(part, [piece]) for part, piece in cut_rows(rows, key, count, parts)]
    if len(parts) == 1:
        return [write(parts[0], [read(job.source, entries) for entries in given])] if given else []
    # Neither count divides the other: pieces of each old part are staged, so that not all of them are held at once.
    staged: dict[int, list[FileEntry]] = {part: [] for part in parts}
    for entries in given:
        for part, piece in cut_rows(read(job.source, entries), key, count, parts):
            staged[part].append(write_rows(job.out, f"{STAGING}/{table}", part, piece))
    files = [write(part, [read(job.out, [piece]) for piece in pieces]) for part, pieces in staged.items() if pieces]
    for piece in (piece for pieces in staged.values() for piece in pieces):
        job.out.remove(piece.path)
    return files


def index_shards(job: Rebucketing, embedded: Sequence[FileEntry]) -> Iterator[Made]:
    """Builds the indexes of new shards, one after the other, with the parameters of the release.

    Args:
        embedded: The files of the new pin_embeddings.
    """
    parameters = read_settings(IndexParameters, job.manifest.settings["index"])
    for done, entry in enumerate(embedded):

        def index(entry: FileEntry = entry) -> Made:
            shard = index_shard(job.out, job.manifest.day, entry, None, parameters, built_with(parameters))
            return Made(shard.files, {"part": entry.part, "find_ef": shard.find_ef, **shard.counters(entry.rows)})

        yield make_once(job, f"indexes-{entry.part:05d}", index)
        job.say(f"indexes: {done + 1:,} of {len(embedded):,} shards")


def make_once(job: Rebucketing, task: str, make: Callable[[], Made]) -> Made:
    """What a task made, now or in an attempt that was cut off; a marker that is damaged or lacks a file is none."""
    marker = f"{STAGING}/done/{task}.json"
    try:
        found: dict[str, Any] = job.out.read_json(marker)
        files = [read_entry(entry, "") for entry in found["files"]]
        if all(job.out.size(entry.path) == entry.bytes for entry in files):
            return Made(files, dict(found["figures"]))
    except (FileNotFoundError, StoreError, KeyError, TypeError, ValueError):
        pass
    made = make()
    job.out.write_json(marker, dataclasses.asdict(made), durable=False)
    return made


def copy_file(source: Root, entry: FileEntry, out: Root) -> FileEntry:
    """Copies a file that a manifest names to another root, under its own name.

    Raises:
        StoreError: its content is not what the manifest says.
    """
    folder, _, name = entry.path.rpartition("/")
    stem, _, suffix = name.partition(f"-{entry.checksum[:16]}")

    def write(path: str) -> None:
        with source.open_input(entry.path) as content, open(path, "wb") as sink:
            shutil.copyfileobj(content, sink, COPY_BYTES)

    if out.size(entry.path) == entry.bytes:
        return entry  # by an attempt that was cut off: names carry digests
    copied = out.write_named_by_content(folder, stem, suffix, entry.part, entry.rows, write)
    if copied != entry:
        raise StoreError(f"{source.path(entry.path)}: its sha256 is not what its manifest says; restore the file")
    return copied


def copy_what_stands_beside(job: Rebucketing) -> None:
    """Copies what is in no table: the release's dead letters, who is kept out, and the reports of erasures."""
    folders = (f"releases/{job.manifest.release}/dead_letters", "erasures")
    names = [f"{folder}/{name}" for folder in folders for name in job.source.list(folder)]
    for name in [*names, *([ERASED] if job.source.exists(ERASED) else [])]:
        job.out.write_bytes(name, job.source.read_bytes(name))

"""Compares a release with what it says of itself: bytes, rows, order, vectors made again, the store, the indexes."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pinnerformer_model.plain import PlainModel
from stores.errors import PinnerFormerError
from stores.files import FileEntry, Root
from stores.id_names import PINS, USERS, NamedIds, shown_ids
from stores.ids import bucket_of
from stores.indexes import load_shards
from stores.kv.base import Current, KeyValueStore
from stores.kv.codec import decode_what_can_be
from stores.manifests import Manifest, manifest_path
from stores.names import Step
from stores.pin_shards import PIN_SHARDS
from stores.pin_vectors import VectorSet, read_vectors
from stores.releases import chain
from stores.schemas import from_binary_column
from stores.string_ids import STRING, hash_strings
from stores.tables import read_drawn, read_files, read_rows_of
from transforms.engagements import sorted_vocabulary, to_engagements
from transforms.gates import Gate, StagedRelease, Thresholds, check_gates, read_gate, recall, vectors
from transforms.publish import snapshot_digest
from transforms.step_reports import StepReport

MIN_COSINE = 0.9999
INDEX_GATES = (vectors.users_alike, vectors.pins_alike, recall.index_recall_at_10, recall.coverage_pins)
# Damage is looked for here: whether answers are personal enough was the night's to decide, by the limits of that night.
INDEX_LIMITS = dataclasses.replace(Thresholds(), max_users_alike=0.9999)
ROUNDING = 1e-6  # between a gate measured by steps and the same one measured at once
BATCH = 100_000


@dataclasses.dataclass
class Findings:
    """What was looked at, and what is wrong; a problem names the file, the user or the pin."""

    looked_at: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    def note(self, words: str, problems: list[str]) -> None:
        self.looked_at.append(f"{words}: {f'{len(problems):,} wrong' if problems else 'as it should be'}")
        self.problems += problems

    def note_if_wrong(self, words: str, problems: list[str]) -> None:
        """As `note`, of what is looked at beside the release: it is not spoken of if it is sound."""
        if problems:
            self.note(words, problems)


def check_files(root: Root, manifest: Manifest) -> list[str]:
    """Size and sha256 of every file that the manifest names."""
    problems = []
    for entries in manifest.tables.values():
        for entry in entries:
            path, size = root.path(entry.path), root.size(entry.path)
            if size is None:
                problems.append(f"{path}: missing")
            elif size != entry.bytes:
                problems.append(f"{path}: {size:,} bytes, its manifest says {entry.bytes:,}")
            elif root.checksum(entry.path) != entry.checksum:
                problems.append(f"{path}: its content is not what the manifest says (sha256)")
    return problems


def check_tables(root: Root, manifest: Manifest) -> list[str]:
    """Rows, order, and that every id is in the part it belongs to."""
    layout, problems = manifest.settings["layout"], []
    keys = {
        "histories": ("user_id", layout["user_buckets"]),
        "user_embeddings": ("user_id", layout["user_buckets"]),
        "pin_embeddings": ("pin_id", layout["pin_shards"]),
    }
    for table, (key, parts) in keys.items():
        for part, entries in manifest.parts(table).items():
            path = root.path(entries[0].path)
            try:
                rows = read_files(root, entries)
                ids = rows[key].to_numpy()
                # The order itself is recomputed: sorted ids alone would not show a history whose ties or dates are out
                # of order.
                if table == "histories":
                    words = [sorted_vocabulary([rows[name]]) for name in ("action", "surface")]
                    ordered = to_engagements(rows, *words).order()
                    in_order = bool((ordered == np.arange(len(ids))).all())
                else:
                    in_order = bool((ids[1:] > ids[:-1]).all())
            except (PinnerFormerError, pa.ArrowException, KeyError, ValueError, IndexError) as error:
                problems.append(f"{path}: {error}")
                continue
            if not in_order:
                problems.append(f"{path}: not in order of {key}, or an id twice")
            if (bucket_of(ids, parts) != part).any():
                problems.append(f"{path}: holds ids that belong to another part than {part}")
    return problems


def check_names(root: Root, manifest: Manifest) -> list[str]:
    """Where ids are strings: order and parts of the tables of names, that names give their ids, and whom they lack."""
    problems = []
    for of, tables in ((USERS, ("histories", "user_embeddings")), (PINS, ("pin_embeddings",))):
        if of.kind(manifest) != STRING or of.table in manifest.dropped:
            continue
        if of.table not in manifest.tables:
            problems.append(f"{root.path(manifest_path(manifest.release))}: has no table {of.table}")
            continue
        named = manifest.parts(of.table)
        parts = {table: manifest.parts(table) for table in tables}
        for part in sorted({*named, *(part for found in parts.values() for part in found)}):
            try:
                asked = [read_files(root, found[part], [of.column]) for found in parts.values() if part in found]
                ids = np.unique(
                    np.concatenate([np.empty(0, np.int64), *(rows[of.column].to_numpy() for rows in asked)])
                )
                problems += _wrong_names(
                    root, of, named.get(part, []), part, int(manifest.settings["layout"][of.parts]), ids
                )
            except (PinnerFormerError, pa.ArrowException, KeyError, TypeError) as error:
                problems.append(f"{of.table} of part {part}: {error}")
    return problems


def _wrong_names(
    root: Root, of: NamedIds, entries: list[FileEntry], part: int, parts: int, asked: np.ndarray
) -> list[str]:
    """What is wrong with the names of a part, of which some ids must be there."""
    path = root.path(entries[0].path) if entries else root.path(of.table)
    ids, names = np.empty(0, np.int64), pa.array([], pa.string())
    if entries:
        rows = read_files(root, entries, [of.column, "name"])
        ids, names = rows[of.column].to_numpy(), rows["name"].combine_chunks()
    problems = []
    if not (ids[1:] > ids[:-1]).all():
        problems.append(f"{path}: not in order of {of.column}, or an id twice")
    if (bucket_of(ids, parts) != part).any():
        problems.append(f"{path}: holds ids that belong to another part than {part}")
    wrong = np.flatnonzero(hash_strings(names) != ids)
    if len(wrong):
        shown = names[int(wrong[0])].as_py()
        problems.append(f"{path}: {len(wrong):,} names are not of their ids, first {shown!r} of {ids[wrong[0]]}")
    missing = np.setdiff1d(asked, ids)
    if len(missing):
        problems.append(
            f"{path}: {len(missing):,} {of.word}s of part {part} have no name, first that with hash {missing[0]}"
        )
    return problems


def check_indexes(root: Root, manifest: Manifest, dim: int) -> list[str]:
    """Every pin with an embedding is in the graph or a twin, and nothing else is; recall against exact search."""
    problems = []
    embedded = manifest.parts("pin_embeddings")
    for number, entries in manifest.parts("indexes").items():
        shards = load_shards(root, entries, dim)
        # Both parts together must be the embeddings' ids exactly: a pin that is missing is never found, one too many is
        # served.
        held = np.sort(np.concatenate([shard.pin_ids() for shard in shards]))
        wanted = read_files(root, embedded.get(number, []), ["pin_id"])["pin_id"].to_numpy()
        if not np.array_equal(held, wanted):
            strange = np.setxor1d(held, wanted)
            problems.append(f"{root.path(entries[0].path)}: {len(strange)} pins differ, first {strange[:1].tolist()}")
    # At the width that it is served with, and no narrower one; of the users that its own night drew.
    reports = {Step.BUILD_INDEXES: StepReport(highest={"find_ef": manifest.settings["index"]["ef_search"]})}
    drawn = Thresholds.from_manifest(manifest.settings.get("thresholds", {})).recall_users
    limits = dataclasses.replace(INDEX_LIMITS, recall_users=drawn)
    for gate in check_gates(INDEX_GATES, StagedRelease(root, manifest, reports, [], limits)):
        if not gate.passed and not _allowed_then(manifest, gate):
            problems.append(f"{gate.name}: {gate.measured:g} ({gate.reads})")
    return problems


def _allowed_then(manifest: Manifest, gate: Gate) -> bool:
    """Whether a release was let through as it is measured now, by wider limits of its night or by an operator."""
    for then in map(read_gate, manifest.gates):
        if then.name == gate.name:
            allowed = then.threshold if then.forced is None else then.measured
            beyond = allowed - gate.measured if gate.at_least else gate.measured - allowed
            return beyond <= ROUNDING
    return False


def draw_rows(root: Root, manifest: Manifest, count: int, seed: int) -> pa.Table:
    """Rows of users drawn at random from the snapshot, bucket after bucket."""
    return pa.concat_tables(read_drawn(root, manifest.tables["user_embeddings"], count, seed))


def vectors_of(vectors: VectorSet, pins: np.ndarray) -> dict[int, np.ndarray]:
    """The PinSage vectors of some pins; those of zeros are none."""
    found: dict[int, np.ndarray] = {}
    for file in vectors.files:
        for group in range(file.row_groups):
            ids, rows = read_vectors(file, group)
            mine = np.flatnonzero(np.isin(ids, pins) & rows.any(axis=1))
            found |= dict(zip(ids[mine].tolist(), rows[mine], strict=True))
    return found


def with_vectors_of_then(root: Root, manifest: Manifest, drawn: pa.Table) -> pa.Table:
    """Rows of users without those who were carried over from a release that had other PinSage vectors.

    Theirs were made of what is not there any more, and nobody can make them again. A release that does not say what its
    shards were made of tells of no difference.

    Args:
        drawn: Rows of user_embeddings.
    """
    tonight = _vectors_of_shards(manifest)
    other = [
        older.day
        for older in chain(root, manifest.release)
        if tonight and _vectors_of_shards(older) not in ({}, tonight) and older.day < manifest.day
    ]
    return drawn.filter(pc.invert(pc.is_in(drawn["embedding_date"], pa.array(other, pa.date32()))))


def _vectors_of_shards(manifest: Manifest) -> dict[str, str]:
    """Shard -> checksum of its table of PinSage vectors; none where one is not known, as after `rebucket`."""
    facts = manifest.statistics.get(PIN_SHARDS)
    found = {part: str(one.get("vectors") or "") for part, one in facts.items()} if isinstance(facts, dict) else {}
    return found if all(found.values()) else {}


def check_users(
    root: Root, manifest: Manifest, drawn: pa.Table, model: str, vectors: VectorSet, min_cosine: float = MIN_COSINE
) -> list[str]:
    """Makes the vectors of some users again, from their histories, as plainly as possible, one at a time.

    Stale vectors are left out: they are known to be of an older history.

    Args:
        model: A local folder.
    """
    # Here and not above: it brings torch, which only this check computes with.
    from pinnerformer_model.time_encoding import ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS

    plain = PlainModel(model, ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS)
    drawn = drawn.filter(pa.array(~drawn["stale"].to_numpy()))
    histories = {user: rows for user, rows in _histories_of(root, manifest, drawn["user_id"].to_numpy())}
    # As int64 from the start: floats know of no difference between ids past 2**53.
    pins = np.unique(np.array([row["pin_id"] for rows in histories.values() for row in rows], np.int64))
    known = vectors_of(vectors, pins)
    actions, surfaces = plain.config["action_vocabulary"], plain.config["surface_vocabulary"]
    stored = from_binary_column(drawn["embedding"]).astype(np.float64)
    problems: list[tuple[int, str]] = []
    for user, vector in zip(drawn["user_id"].to_pylist(), stored, strict=True):
        usable = [
            {**row, "vector": known[row["pin_id"]]}
            for row in histories.get(user, [])
            if row["pin_id"] in known and row["action"] in actions and row["surface"] in surfaces
        ][: plain.config["max_sequence_length"]]
        if not usable:
            problems.append((user, "has a vector, and no usable row in the histories"))
            continue
        # A second implementation, one user at a time: batching and padding cannot be what both have in common.
        made = plain.user(usable)
        cosine = float(made @ vector / max(1e-12, float(np.linalg.norm(made) * np.linalg.norm(vector))))
        if not cosine >= min_cosine:
            problems.append((user, f"made again, the vector has cosine {cosine:.6f} to the one stored"))
    named = shown_ids(root, manifest, USERS, [user for user, _ in problems])
    return [f"user {named[user]}: {words}" for user, words in problems]


def _histories_of(root: Root, manifest: Manifest, users: np.ndarray) -> Iterator[tuple[int, list[dict]]]:
    bucket = bucket_of(users, manifest.settings["layout"]["user_buckets"])
    parts = manifest.parts("histories")
    for number in np.unique(bucket).tolist():
        asked = np.sort(users[bucket == number])
        mine = read_rows_of(root, parts.get(number, []), "user_id", asked).to_pylist()
        for user in users[bucket == number].tolist():
            yield user, [row for row in mine if row["user_id"] == user]


def check_store(store: KeyValueStore, manifest: Manifest, drawn: pa.Table, root: Root | None = None) -> list[str]:
    """What the store serves: this release, as many users, and the users drawn with the bytes of the snapshot.

    Args:
        root: Says how users are called whose ids are strings; None: they are called by their hashes.
    """
    current = store.current()
    if current is None or current.release != manifest.release:
        return [f"{store.url_shown}: serves {current.release if current else 'nothing'}, not {manifest.release}"]
    problems = [f"{store.url_shown}: {words}" for words in _wrong_in(current, store, manifest)]
    count, rows = store.count(current.generation), manifest.rows("user_embeddings")
    if count != rows:
        problems.append(f"{store.url_shown}: holds {count:,} users, the release has {rows:,}")
    wrong: list[tuple[int, str]] = []
    for start in range(0, len(drawn), BATCH):
        of_users, of_store = _wrong_values(store, current.generation, manifest, drawn.slice(start, BATCH))
        wrong += of_users
        problems += [f"{store.url_shown}: {words}" for words in of_store]
    users = [user for user, _ in wrong]
    named = shown_ids(root, manifest, USERS, users) if root is not None else {user: str(user) for user in users}
    return problems + [f"{store.url_shown}: user {named[user]}: {words}" for user, words in wrong]


def _wrong_values(
    store: KeyValueStore, generation: str, manifest: Manifest, rows: pa.Table
) -> tuple[list[tuple[int, str]], list[str]]:
    """(user, what is wrong) of the users of rows of the snapshot; what is wrong with all that the store answers."""
    ids = rows["user_id"].to_numpy()
    values = store.get_many(generation, ids)
    wrong = [(int(ids[i]), "missing") for i, value in enumerate(values) if value is None]
    # Missing ones are named above; the others are still compared, so that one report has all that is wrong.
    there = np.array([i for i, value in enumerate(values) if value is not None], np.int64)
    if not len(there):
        return wrong, []
    try:
        vectors, days, good = decode_what_can_be([v for v in values if v is not None], manifest.model_digest)
    except PinnerFormerError as error:
        return wrong, [str(error)]
    wanted = from_binary_column(rows["embedding"])[there]
    same = good & (len(wanted[0]) == len(vectors[0]))
    if same.any():
        same &= (vectors.view(np.uint16) == wanted.view(np.uint16)).all(axis=1)
    of_day = rows["embedding_date"].cast(pa.int32()).to_numpy()[there]
    wrong += [(user, "its value is damaged") for user in ids[there][~good].tolist()]
    wrong += [(user, f"not the vector of {manifest.release}") for user in ids[there][good & ~same].tolist()]
    wrong += [(user, f"not its day in {manifest.release}") for user in ids[there][same & (days != of_day)].tolist()]
    return wrong, []


def _wrong_in(current: Current, store: KeyValueStore, manifest: Manifest) -> Iterator[str]:
    """What the store says of itself that is not so."""
    if current.model_digest != manifest.model_digest:
        yield f"says that it serves model {current.model_digest[:12]}, {manifest.release} is of another"
    rows = manifest.rows("user_embeddings")
    if current.users != rows:
        yield f"says that it serves {current.users:,} users, {manifest.release} has {rows:,}"
    note, content = store.note(), store.contents().get(current.generation)
    if note is not None:
        yield f"a publish of {note.target.release} that began {note.since} was not finished; publish again"
    if content is not None and (content.release, content.snapshot) != (manifest.release, snapshot_digest(manifest)):
        yield f"says that it holds {content.release} (snapshot {content.snapshot[:12]}), not this one; publish again"


def check_older(root: Root, release: str) -> list[str]:
    """Files of the releases before one, as far as a rollback may go: what none of them has in common with it."""
    problems, seen = [], set()
    for manifest in chain(root, release):
        if manifest.dropped:
            break
        new = {
            table: [entry for entry in entries if entry.path not in seen] for table, entries in manifest.tables.items()
        }
        seen |= {entry.path for entries in new.values() for entry in entries}
        if manifest.release != release:
            problems += check_files(root, dataclasses.replace(manifest, tables=new))
    return problems


def check_absent(stores: Sequence[KeyValueStore], users: np.ndarray) -> list[str]:
    """Whether a store still holds somebody who was erased, in whatever generation."""
    problems = []
    for store in stores:
        for generation in store.generations():
            held = sum(value is not None for value in store.get_many(generation, users))
            if held:
                problems.append(f"{store.url_shown}: generation {generation} holds {held} of the erased users")
    return problems

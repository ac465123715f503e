"""Erases people: from every file under a root, so that nothing brings them back."""

import dataclasses
import datetime
import hashlib
import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.id_names import USERS, names_of
from stores.ids import bucket_of
from stores.log_text import with_used_text
from stores.manifests import Manifest, manifest_path, read_manifest, write_manifest
from stores.reports import REPORT, read_page, reports_of_releases, users_named
from stores.retention import temporary_files, walk
from stores.schemas import NAME_COLUMNS
from stores.string_ids import hash_strings
from stores.tables import KNOWN_TABLES, SORTED, USER_NAMES, read_files, write_part
from stores.timelines import DESCRIPTION
from stores.user_lists import ERASED, read_erased, write_ids

TABLES_OF_USERS = ("histories", "user_embeddings", "canaries")
WITH_NAMES = (*TABLES_OF_USERS, USER_NAMES)  # of a root whose users are strings


@dataclasses.dataclass
class ErasureReport:
    """What an erasure removed; counts only, nobody is named.

    Attributes:
        users: How many were asked for.
        list_digest: Hex sha256 of their sorted inner ids, as int64 little-endian.
        erased_digest: As `list_digest`, of everybody in ROOT/erased since; empty in a report of the version before.
        erased_users: How many that are.
        releases: Manifests written again.
        rows: Table -> rows removed, over all releases; a file that several releases share counts once. Of
            `user_names` only where there were some.
        files_deleted: Table files.
        dead_letters: Rows removed from dead letters.
        runs_deleted: Folders under `staging/`.
        temporary_files: Left by killed writers, whatever was in them; raw dead letters too.
        training_data_deleted: Folders of timelines under the root that held one of them.
        stored: Store and generation -> users removed from it.
        finished: UTC.
    """

    users: int
    list_digest: str
    releases: int = 0
    rows: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(TABLES_OF_USERS, 0))
    files_deleted: int = 0
    dead_letters: int = 0
    runs_deleted: int = 0
    temporary_files: int = 0
    erased_digest: str = ""
    erased_users: int = 0
    training_data_deleted: list[str] = dataclasses.field(default_factory=list)
    stored: dict[str, int] = dataclasses.field(default_factory=dict)
    finished: str = ""


def keep_out(root: Root, users: np.ndarray) -> np.ndarray:
    """Adds users to ROOT/erased: from now on no row of theirs is taken in, by whatever job; returns all of them."""
    everybody = np.union1d(read_erased(root), users)
    write_ids(root, ERASED, everybody)
    return everybody


def digest_of_ids(users: np.ndarray) -> str:
    """Hex sha256 of sorted int64 ids."""
    return hashlib.sha256(users.astype("<i8").tobytes()).hexdigest()


def check_erased(root: Root) -> list[str]:
    """Whether ROOT/erased still has everybody that the reports of erasures say it kept out; what is wrong, in words."""
    reports = [root.read_json(f"erasures/{name}") for name in root.list("erasures") if name.endswith(".json")]
    if not reports:
        return []
    there, path = read_erased(root), root.path(ERASED)
    newest = max(reports, key=lambda report: (str(report.get("finished")), report.get("erased_users", 0)))
    advice = "restore it from a backup, or erase them again: the next delivery brings back whom it lacks"
    if newest.get("erased_digest"):
        same = newest["erased_digest"] == digest_of_ids(there)
        return [] if same else [f"{path}: not as the erasure of {newest['finished']} left it; {advice}"]
    most = max(int(report.get("users", 0)) for report in reports)
    return [] if len(there) >= most else [f"{path}: {len(there):,} users, and {most:,} were erased at once; {advice}"]


def without(rows: pa.Table, users: np.ndarray) -> pa.Table:
    """Rows of a table with a `user_id` column that are of nobody in `users`; the order is kept."""
    return rows.filter(pa.array(~np.isin(rows["user_id"].to_numpy(), users)))


def check_known_tables(root: Root) -> None:
    """Makes sure that no release has a table that this version passes by: users in it would stay.

    Raises:
        StoreError: a newer version made one.
    """
    for release in root.list("releases"):
        path = manifest_path(release)
        unknown = set(read_manifest(root, release).tables) - set(KNOWN_TABLES) if root.exists(path) else set()
        if unknown:
            raise StoreError(
                f"{root.path(path)}: has tables that this version does not know: {', '.join(sorted(unknown))}; erase "
                "with the version that made them, nothing was erased"
            )


def erase_from_files(root: Root, users: np.ndarray, report: ErasureReport) -> None:
    """Writes files that hold a user again, without them, then the manifests, then deletes the old files; repeatable.

    At no moment does a manifest name a file that is not there.
    """
    # Releases share files: each is rewritten once, and every manifest that names it gets the same successor.
    replaced: dict[str, FileEntry] = {}
    for release in root.list("releases"):
        if not root.exists(manifest_path(release)):
            continue
        manifest = read_manifest(root, release)
        # Manifest after manifest, each complete by itself: a kill between two leaves some that still name the old
        # files, and those are deleted only when none does.
        changed = _without_users(root, manifest, users, replaced, report)
        if changed != manifest:
            write_manifest(root, dataclasses.replace(changed, revision=manifest.revision + 1))
            report.releases += 1
    # Read again after all manifests were written: what they name now stays.
    named = {
        entry.path
        for release in root.list("releases")
        if root.exists(manifest_path(release))
        for entries in read_manifest(root, release).tables.values()
        for entry in entries
    }
    for table in WITH_NAMES:
        for path in list(walk(root, table)):
            # Files of nobody too (of runs cut off, of before a rewrite): a user is in them all the same.
            if path not in named and _holds(root, path, users):
                root.remove(path)
                report.files_deleted += 1


def _without_users(
    root: Root, manifest: Manifest, users: np.ndarray, replaced: dict[str, FileEntry], report: ErasureReport
) -> Manifest:
    buckets = set(bucket_of(users, int(manifest.settings["layout"]["user_buckets"])).tolist())
    tables = dict(manifest.tables)
    for table in (table for table in WITH_NAMES if table in tables):
        entries = []
        for entry in manifest.tables[table]:
            # Canaries are not cut by bucket; everything else of other buckets need not be opened.
            if table == "canaries" or entry.part in buckets:
                if entry.path not in replaced:
                    replaced[entry.path] = _rewrite(root, table, manifest, entry, users, report)
                entry = replaced[entry.path]
            entries.append(entry)
        tables[table] = entries
    retry = [user for user in manifest.retry_users if user not in set(users.tolist())]
    return dataclasses.replace(manifest, tables=tables, retry_users=retry)


def _rewrite(
    root: Root, table: str, manifest: Manifest, entry: FileEntry, users: np.ndarray, report: ErasureReport
) -> FileEntry:
    rows = read_files(root, [entry], verify=True)  # else a flipped bit would get a good checksum
    left = without(rows, users)
    if left.num_rows == rows.num_rows:
        return entry
    report.rows[table] = report.rows.get(table, 0) + rows.num_rows - left.num_rows
    date = datetime.date.fromisoformat(entry.path.split("/")[1])
    return write_part(root, table, date, entry.part, left)


def _holds(root: Root, path: str, users: np.ndarray) -> bool:
    """Whether a Parquet file that nothing names has a row of one of the users; one that cannot be read counts."""
    try:
        with root.open_input(path) as source:
            found = pq.read_table(source, columns=["user_id"])["user_id"]
    except (pa.ArrowException, OSError, KeyError):
        return True
    return bool(rows_of_users(found, users).any())


def rows_of_users(column: pa.ChunkedArray, users: np.ndarray) -> np.ndarray:
    """bool [N]: which rows are of one of some users, by inner id; a null is nobody.

    Args:
        column: `user_id`, as inner ids, or as strings where logs and dead letters have those.
    """
    words = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(words) or pa.types.is_large_string(words):
        ids = np.concatenate([np.empty(0, np.int64), *map(hash_strings, column.chunks)])
    elif pa.types.is_integer(words) or pa.types.is_floating(words):
        ids = column.cast(words).fill_null(0).to_numpy()
    else:
        return np.zeros(len(column), bool)  # somebody else's file, and no ids
    return np.isin(ids, users) & column.is_valid().to_numpy()


def erase_from_dead_letters(root: Root, users: np.ndarray, report: ErasureReport) -> None:
    """Writes the dead letters of every release again without the users."""
    for release in root.list("releases"):
        folder = f"releases/{release}/dead_letters"
        for name in root.list(folder):
            with root.open_input(f"{folder}/{name}") as source:
                rows = pq.read_table(source)
            # A dead letter may be one because its id is null; a null is no user, and 0 may be one.
            hit = rows_of_users(rows["user_id"], users)
            if hit.any():
                sink = pa.BufferOutputStream()
                # A dictionary keeps the words of the rows that are gone.
                pq.write_table(with_used_text(rows.filter(pa.array(~hit)), NAME_COLUMNS.values()), sink)
                root.write_bytes(f"{folder}/{name}", sink.getvalue().to_pybytes())
                report.dead_letters += int(hit.sum())


def erase_from_runs(root: Root, report: ErasureReport) -> None:
    """Removes every run's folder: staged rows, embeddings, reports. A run that was not finished starts over."""
    for run in root.list("staging"):
        root.remove(f"staging/{run}")
        report.runs_deleted += 1


def erase_temporary_files(root: Root, report: ErasureReport) -> None:
    """Removes what killed writers left beside releases, tables and reports: half of it cannot be looked into."""
    for path in list(_temporary(root)):
        root.remove(path)
        report.temporary_files += 1


def _temporary(root: Root) -> Iterator[str]:
    """Names of temporary files in the job's own folders; runs' own are removed with them."""
    for folder in ("", "releases", "erasures", SORTED, *KNOWN_TABLES):
        yield from temporary_files(root, folder)


def erase_from_training_data(root: Root, users: np.ndarray, report: ErasureReport) -> None:
    """Removes timelines under the root that hold one of the users, wherever they lie; the logs make them again.

    Nothing else in their neighbourhood is touched: logs that somebody keeps under the root are theirs.
    """
    for folder in list(_timelines(root, "")):
        if any(_holds(root, path, users) for path in walk(root, folder) if _may_be_table(path)):
            root.remove(folder)
            report.training_data_deleted.append(folder)


def _may_be_table(path: str) -> bool:
    """Whether a file is a Parquet file, or one in writing."""
    return path.endswith(".parquet") or path.rpartition("/")[2].startswith(".tmp-")


def _timelines(root: Root, folder: str) -> Iterator[str]:
    """Folders below one that hold timelines."""
    # Only at the top: the root's own folders are emptied above, by their tables.
    own = {*KNOWN_TABLES, SORTED, "releases", "staging", "erasures"} if not folder else set()
    for name in root.list(folder):
        path = f"{folder}/{name}" if folder else name
        if name in own or root.size(path) is not None:
            continue
        if root.exists(f"{path}/{DESCRIPTION}"):
            yield path
        else:
            yield from _timelines(root, path)


def find_users(root: Root, users: np.ndarray) -> list[str]:
    """Files under the root that hold one of the users; empty after an erasure.

    A file that a killed writer left half written counts: what is in it cannot be told.
    """
    found = [path for path in temporary_files(root, "") if _holds(root, path, users)]
    for folder in [name for name in root.list("") if root.size(name) is None]:
        for path in walk(root, folder):
            # Pins have no users, and are by far the most bytes.
            if path.startswith(("pin_embeddings/", "pin_names/", "indexes/", f"{SORTED}/")) or not _may_be_table(path):
                continue
            if path.endswith(".parquet"):
                with root.open_input(path) as source:
                    file = pq.ParquetFile(source)
                    if "user_id" in file.schema_arrow.names:
                        if rows_of_users(file.read(columns=["user_id"])["user_id"], users).any():
                            found.append(path)
            elif _holds(root, path, users):
                found.append(path)
    for release in root.list("releases"):
        if root.exists(manifest_path(release)) and np.isin(read_manifest(root, release).retry_users, users).any():
            found.append(manifest_path(release))
    return found + find_in_reports(root, users)


def find_in_reports(root: Root, users: np.ndarray) -> list[str]:
    """Reports, of releases and of refused runs, that show one of the users or cannot be read."""
    found = []
    runs = [f"staging/{run}/{REPORT}" for run in root.list("staging")]
    for path in [*(path for _, path in reports_of_releases(root)), *filter(root.exists, runs)]:
        try:
            named = users_named(read_page(root, path))
        except StoreError:
            found.append(path)
            continue
        ids = [int(name) for name in named if re.fullmatch(r"-?\d{1,19}", name)]
        if set(ids) & set(users.tolist()) or np.isin(hash_strings(pa.array(named, pa.string())), users).any():
            found.append(path)
    return found


def names_known(root: Root, users: np.ndarray) -> dict[int, str]:
    """The names that some release has of users whose ids are strings; of whom it has none was erased, or never there.

    Args:
        users: int64 [N], sorted.
    """
    known: dict[int, str] = {}
    for release in root.list("releases"):
        if root.exists(manifest_path(release)):
            missing = [user for user in users.tolist() if user not in known]
            known |= names_of(root, read_manifest(root, release), USERS, missing)
    return known


def new_erasure_report(users: np.ndarray) -> ErasureReport:
    return ErasureReport(len(users), digest_of_ids(users))

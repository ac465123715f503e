"""What a night leaves behind for the look back: the acts of a few users, and their vectors of last night and tonight.

Small files under the run's folder, one per bucket; no table of a release has them. Who is asked depends on the
night's rows of the bucket alone, so that the daily job and a backfill ask the same users.
"""

import numpy as np
import pyarrow as pa

from pinnerformer_model.config import ModelConfig
from pinnerformer_model.labels import counts_on, find_positives, least_seconds
from stores.files import FileEntry
from stores.ids import find_sorted, uniform_of
from stores.names import Counter
from stores.tables import write_rows
from transforms.run import Run
from transforms.sequences import model_codes

ASKED_USERS = 20_000  # of all buckets together
JUDGED_USERS = 2_000  # of them, those whose history of last night is kept where the model changes
ACTS_PER_USER = 16
SALT = 0x51DE  # whoever is asked has nothing to do with the bucket, nor with the split of a training
ACTS, VECTORS, BEFORE = "acts", "asked_vectors", "asked_histories"  # keys of a report's files, and folders


def per_bucket(count: int, buckets: int) -> int:
    """How many users of each bucket make `count` together; one at least."""
    return max(1, count // buckets)


def draw_asked(users: np.ndarray, count: int) -> np.ndarray:
    """The `count` users of the lowest hash, all if there are fewer.

    Args:
        users: Distinct int64 ids.

    Returns:
        Sorted int64 ids: the same users night after night, as far as they act.
    """
    return np.sort(users[np.argsort(uniform_of(users, SALT), kind="stable")[:count]])


def has_labels(config: ModelConfig) -> bool:
    """Whether the model's label rule can hold for a row that the model knows."""
    rule = config.label_rule
    some_action = any(least_seconds(rule, word) >= 0 for word in config.action_vocabulary)  # NaN is not
    return some_action and any(counts_on(rule, word) for word in config.surface_vocabulary)


def known_rows(rows: pa.Table, config: ModelConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes of rows of schema `ENGAGEMENTS` in the model's vocabularies.

    Returns:
        action, surface int32 [N], -1 = not in it; whether both are known bool [N].
    """
    action = model_codes(rows["action"], config.action_vocabulary)
    surface = model_codes(rows["surface"], config.surface_vocabulary)
    return action, surface, (action >= 0) & (surface >= 0)


def find_acts(rows: pa.Table, config: ModelConfig, count: int) -> pa.Table:
    """What users newly engaged with: positives by the model's label rule, every row where the rule holds for none.

    Args:
        rows: A night's rows of a bucket as they came into the histories, in their order: newest first.
        count: Users at most.

    Returns:
        `user_id`, `pin_id` of at most `ACTS_PER_USER` distinct pins of each of the users asked, sorted by user, the
        pins newest first.
    """
    mine = np.arange(rows.num_rows)
    if has_labels(config):
        action, surface, known = known_rows(rows, config)
        mine = np.flatnonzero(known)
        positive = find_positives(
            config.label_rule,
            config.action_vocabulary,
            config.surface_vocabulary,
            action[mine],
            surface[mine],
            rows["duration_s"].to_numpy()[mine],
        )
        mine = mine[positive]
    user, pin = rows["user_id"].to_numpy()[mine], rows["pin_id"].to_numpy()[mine]
    asked = np.isin(user, draw_asked(np.unique(user), count))
    user, pin = user[asked], pin[asked]
    # Of a pin that a user took twice the newest counts.
    order = np.lexsort((pin, user))
    new = np.ones(len(order), bool)
    new[1:] = (user[order][1:] != user[order][:-1]) | (pin[order][1:] != pin[order][:-1])
    first = np.sort(order[new])
    user, pin = user[first], pin[first]
    begin = np.searchsorted(user, user)
    kept = np.arange(len(user)) - begin < ACTS_PER_USER
    return pa.table({"user_id": user[kept], "pin_id": pin[kept]})


def write_acts(
    run: Run, bucket: int, added: pa.Table, before: pa.Table, config: ModelConfig
) -> tuple[pa.Table, dict[str, list[FileEntry]], dict[str, int]]:
    """Writes the acts of a bucket's users; where the model changes, some of their histories of last night too.

    Args:
        added: The night's rows as they came into the histories.
        before: The histories before.

    Returns:
        The acts; the files, by their key in a report; counters rows_added, rows_out_of_vocabulary.
    """
    counters: dict[str, int] = {
        Counter.ROWS_ADDED: added.num_rows,
        Counter.ROWS_OUT_OF_VOCABULARY: int((~known_rows(added, config)[2]).sum()),
    }
    buckets = run.layout.user_buckets
    # A repair reads old rows again: nothing of it is new.
    acts = find_acts(added.slice(0, 0 if run.instructions.repair else None), config, per_bucket(ASKED_USERS, buckets))
    files = {ACTS: [write_rows(run.root, f"{run.staging}/{ACTS}", bucket, acts)]}
    if run.instructions.everyone_active and run.previous is not None:
        users = before["user_id"].to_numpy()
        asked = np.intersect1d(np.unique(acts["user_id"].to_numpy()), users)
        judged = draw_asked(asked, per_bucket(JUDGED_USERS, buckets))
        rows = before.filter(pa.array(np.isin(users, judged)))
        files[BEFORE] = [write_rows(run.root, f"{run.staging}/{BEFORE}", bucket, rows)]
    return acts, files, counters


def write_vectors(run: Run, bucket: int, acts: pa.Table, before: pa.Table, tonight: pa.Table) -> FileEntry:
    """Writes the vectors of a bucket's asked users.

    Args:
        acts: As `find_acts` gave them.
        before: Rows of user_embeddings of the previous release; those of another model have another width.
        tonight: Rows of user_embeddings as the night leaves them; only those embedded tonight count.
    """
    asked = np.unique(acts["user_id"].to_numpy())
    fresh = tonight["embedding_date"].to_numpy() == np.datetime64(run.date)
    fresh &= ~tonight["stale"].to_numpy(zero_copy_only=False)
    columns = {"user_id": pa.array(asked, pa.int64())}
    for name, rows in (("before", before), ("tonight", tonight.filter(pa.array(fresh)))):
        at, there = find_sorted(rows["user_id"].to_numpy(), asked)
        column = rows["embedding"]
        columns[name] = column.take(pa.array(at, mask=~there))
    return write_rows(run.root, f"{run.staging}/{VECTORS}", bucket, pa.table(columns))

"""Arrow batches in the shuffle: cut by bucket in their order, packed within the limit, unpacked as they were."""

import numpy as np
import pyarrow as pa
import pytest

from transforms.batches import MAX_SHUFFLED_BYTES, from_ipc, split_by_bucket, to_ipc

# The bucket of users 0 to 9 among 3, as splitmix64 gives it: written out, so that a change of the hash shows.
BUCKETS_OF_3 = [1, 2, 1, 0, 1, 2, 2, 0, 1, 1]


def batch_of(users: list[int]) -> pa.RecordBatch:
    """A row a user, numbered in the order of the batch."""
    return pa.record_batch([pa.array(users, pa.int64()), pa.array(range(len(users)))], names=["user_id", "row"])


def split(users: list[int], buckets: int) -> dict[int, list[tuple[int, int]]]:
    """Bucket -> (user, row) pairs, in the order in which they came out."""
    found: dict[int, list[tuple[int, int]]] = {}
    for bucket, rows in split_by_bucket(batch_of(users), buckets):
        assert rows.num_rows and bucket not in found, "a bucket comes once, and only if it has rows"
        found[bucket] = list(zip(rows["user_id"].to_pylist(), rows["row"].to_pylist(), strict=True))
    return found


@pytest.mark.parametrize(
    ("users", "buckets", "expected"),
    [
        ([], 3, {}),
        ([7], 3, {0: [(7, 0)]}),
        ([4, 9], 1, {0: [(4, 0), (9, 1)]}),
        # Several rows of a user, and users of one bucket in turn: the order of the rows is kept.
        ([4, 2, 4, 0, 2], 3, {1: [(4, 0), (2, 1), (4, 2), (0, 3), (2, 4)]}),
        ([3, 0, 5, 0, 7, 2], 3, {0: [(3, 0), (7, 4)], 1: [(0, 1), (0, 3), (2, 5)], 2: [(5, 2)]}),
    ],
)
def test_rows_are_cut_by_bucket_and_keep_their_order(users, buckets, expected):
    assert split(users, buckets) == expected


def test_buckets_come_in_order_and_hold_the_users_that_hash_there():
    found = split(list(range(10)), 3)
    assert list(found) == [0, 1, 2]
    assert {user: bucket for bucket, rows in found.items() for user, _ in rows} == dict(enumerate(BUCKETS_OF_3))


def test_more_buckets_than_sixteen_bits_can_number():
    """Up to 2^16 buckets are sorted as 16-bit numbers, more as 32-bit ones."""
    users = list(range(300))
    for buckets in (1 << 16, (1 << 16) + 1):
        found = split(users, buckets)
        assert sorted(row for rows in found.values() for row in rows) == list(zip(users, users, strict=True))
        assert list(found) == sorted(found) and max(found) > 1 << 15


def wide_batch(rows: int, width: int) -> pa.RecordBatch:
    """Rows of `width` bytes each, no two alike."""
    content = [row.to_bytes(8, "big") + bytes(width - 8) for row in range(rows)]
    return pa.record_batch([pa.array(content, pa.binary())], names=["content"])


@pytest.mark.parametrize(
    ("rows", "width", "chunks"),
    [
        (0, 8, 1),  # no rows, but their schema
        (1, 8, 1),
        (1, MAX_SHUFFLED_BYTES - 4096, 1),
        (2, MAX_SHUFFLED_BYTES - 4096, 2),
        (1000, 1000, 1),  # 1,000,000 bytes and the stream's own: below the limit of 1,048,576
        (1100, 1000, 2),
        (1000, 3000, 4),  # 3 MB: halves of 1.5 MB are too large, quarters are not
        (3, MAX_SHUFFLED_BYTES - 4096, 3),  # halved unevenly: 1 and 2, and the 2 again
    ],
)
def test_a_batch_is_halved_until_it_fits(rows, width, chunks):
    batch = wide_batch(rows, width)
    packed = list(to_ipc(batch))
    assert len(packed) == chunks and max(map(len, packed)) <= MAX_SHUFFLED_BYTES
    assert pa.Table.from_batches(from_ipc(packed), batch.schema).equals(pa.Table.from_batches([batch]))


def test_a_single_row_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match=r"one row of \d+ bytes cannot be shuffled; the limit is 1048576"):
        list(to_ipc(wide_batch(1, MAX_SHUFFLED_BYTES)))
    small = wide_batch(3, 16)
    large = pa.concat_batches([small, wide_batch(1, MAX_SHUFFLED_BYTES)])
    with pytest.raises(ValueError, match="one row of"):
        list(to_ipc(large))


def test_empty_chunks_stand_for_no_rows():
    (packed,) = to_ipc(batch_of([5, 6]))
    assert from_ipc([]) == from_ipc([b"", b""]) == []
    (unpacked,) = from_ipc([b"", packed, b""])
    assert unpacked.equals(batch_of([5, 6]))


def test_chunks_come_out_in_the_order_in_which_they_came_in():
    packed = [chunk for users in ([1], [2, 3], [4]) for chunk in to_ipc(batch_of(users))]
    assert [batch["user_id"].to_pylist() for batch in from_ipc(iter(packed))] == [[1], [2, 3], [4]]
    turned = [batch["user_id"].to_pylist() for batch in from_ipc(packed[::-1])]
    assert turned == [[4], [2, 3], [1]]  # who needs them in order sorts before


def test_dictionaries_survive_the_cut():
    """Action and surface travel as codes; a slice keeps the whole dictionary, and means the same words."""
    words = pa.array(["save", "click", "save", "hide"]).dictionary_encode()
    batch = pa.record_batch([pa.array([3, 5, 7, 3], pa.int64()), words], names=["user_id", "action"])
    found = {
        bucket: pa.Table.from_batches(from_ipc(to_ipc(rows)))["action"].to_pylist()
        for bucket, rows in split_by_bucket(batch, 3)
    }
    assert found == {0: ["save", "save", "hide"], 2: ["click"]}


def test_what_is_cut_and_packed_is_what_there_was():
    random = np.random.default_rng(3)
    batch = batch_of(random.integers(-(1 << 62), 1 << 62, 5000).tolist())
    rows = [
        (user, row)
        for _, piece in split_by_bucket(batch, 64)
        for unpacked in from_ipc(to_ipc(piece))
        for user, row in zip(unpacked["user_id"].to_pylist(), unpacked["row"].to_pylist(), strict=True)
    ]
    by_row = sorted(rows, key=lambda pair: pair[1])
    assert by_row == list(zip(batch["user_id"].to_pylist(), range(5000), strict=True))

"""A slice's embeddings as rows: who failed, what is counted, and when the job gives up."""

import numpy as np
import pyarrow as pa
import pytest

from pinnerformer_model.inference import UserEncoder
from pinnerformer_model.sequences import Sequences
from stores.errors import InputError
from stores.files import Root
from stores.layout import Layout
from tests.worlds import day
from transforms.embed_users import (
    HOPELESS_USERS,
    EmbeddedSlice,
    embed_slice,
    slice_key,
    slice_reports,
    slice_task,
)
from transforms.run import Instructions, Run
from transforms.sequences import JoinedSlice
from transforms.step_reports import StepReport


def embedded(vectors: list[list[float]], failures: dict[int, str]) -> EmbeddedSlice:
    users = np.arange(len(vectors)) * 10
    floats = np.array(vectors, np.float16).reshape(len(vectors), -1)
    return EmbeddedSlice(3, 1, users, floats, users + 5, failures, 2, 77, 0.25, StepReport(counters={"tokens": 77}))


def test_rows_of_a_slice_and_a_null_for_whoever_failed():
    rows = embedded([[1, 0], [0, 0], [0, 1]], {1: "NaN"}).to_rows(day(0))
    assert rows.to_pylist() == [
        {"user_id": 0, "embedding": b"\x00\x3c\x00\x00", "embedding_date": day(0), "last_action_ms": 5, "stale": False},
        {"user_id": 10, "embedding": None, "embedding_date": day(0), "last_action_ms": 15, "stale": True},
        {
            "user_id": 20,
            "embedding": b"\x00\x00\x00\x3c",
            "embedding_date": day(0),
            "last_action_ms": 25,
            "stale": False,
        },
    ]
    assert rows.schema.field("embedding").type == pa.binary(4)


def test_what_a_slice_reports():
    reports = slice_reports(embedded([[1, 0], [0, 0], [3, 4]], {1: "NaN"}))
    assert reports["join_vectors"].counters == {"tokens": 77}
    found = reports["embed_users"]
    assert found.counters == {
        "users_embedded": 2,
        "users_failed": 1,
        "batches_halved": 2,
        "tokens": 77,
        "users_not_finite": 0,
        "users_constant": 0,
    }
    assert (found.lowest, found.highest, found.failures) == ({"norm": 1.0}, {"norm": 5.0}, [(10, "NaN")])
    assert found.seconds == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize("key", [(0, 0), (7, 12), (123_456, 3)])
def test_a_slices_name_says_its_bucket_and_number(key):
    assert slice_key(slice_task(*key)) == key


def test_names_of_slices_are_ordered_as_they_are():
    names = [slice_task(bucket, number) for bucket in (0, 9, 10) for number in (0, 2, 11)]
    assert names == sorted(names) and names[0] == "part-00000-00000"


class Broken(UserEncoder):
    """A tower that embeds nobody."""

    embedding_dim = 4

    def __init__(self):
        self.token_budget = 1 << 20

    def encode_batch(self, batch):
        raise AttributeError("no such layer")


def joined(users: int) -> JoinedSlice:
    ones = np.ones(users, np.int32)
    sequences = Sequences(
        np.arange(users),
        np.arange(users + 1),
        np.ones((users, 256), np.float16),
        ones,
        ones,
        np.arange(users),
        ones * 1.0,
    )
    return JoinedSlice(3, 1, sequences, np.arange(users), StepReport())


@pytest.mark.parametrize("users", [1, HOPELESS_USERS - 1, HOPELESS_USERS, 40])
def test_a_few_users_may_all_fail_many_may_not(tmp_path, users):
    run = Run(Root(str(tmp_path)), "daily-x", day(0), str(day(0)), None, Layout(), Instructions(everyone_active=False))
    if users < HOPELESS_USERS:
        found = embed_slice(run, joined(users), Broken())
        assert found.failures == dict.fromkeys(range(users), "AttributeError: no such layer")
        assert not found.embeddings.any()
    else:
        with pytest.raises(InputError, match=rf"none of the {users} users of slice 1 of bucket 3 .*no such layer"):
            embed_slice(run, joined(users), Broken())


@pytest.mark.parametrize(("kind", "called"), [("int64", "user 10 was"), ("string", "user with hash 10 was")])
def test_who_failed_is_logged_and_a_hash_is_called_one(caplog, kind, called):
    slice_reports(embedded([[1, 0], [0, 0]], {1: "NaN"}), kind)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == f"{called} not embedded: NaN"

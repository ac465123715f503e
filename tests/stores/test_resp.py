"""Commands as bytes: the same that redis-py's own packer makes."""

import hiredis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions

from stores.kv.resp import key_words, pack, pack_keys, pack_pairs, raise_first, read_replies

EXTREMES = [0, -1, 9, 10, 2**63 - 1, -(2**63)]
prefixes = st.text(max_size=40).map(str.encode)
user_ids = st.lists(st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EXTREMES), min_size=1, max_size=30)


@given(words=st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_a_command_of_few_words(words):
    assert pack(*words) == hiredis.pack_command(tuple(words))


@given(prefix=prefixes, ids=user_ids)
def test_a_command_on_keys(prefix, ids):
    keys = [prefix + b"%d" % user for user in ids]
    assert pack_keys(b"EXISTS", key_words(prefix, np.array(ids))) == hiredis.pack_command((b"EXISTS", *keys))


@given(prefix=prefixes, ids=user_ids, data=st.data())
def test_a_command_on_keys_and_values_in_their_order(prefix, ids, data):
    """Ids in any order and twice, values of any width, none too."""
    values = data.draw(st.lists(st.binary(max_size=1200), min_size=len(ids), max_size=len(ids)))
    pairs = [word for user, value in zip(ids, values, strict=True) for word in (prefix + b"%d" % user, value)]
    packed = pack_pairs(b"MSET", key_words(prefix, np.array(ids)), values)
    assert packed == hiredis.pack_command((b"MSET", *pairs))


def test_as_many_values_as_keys():
    for number in (1, 3):
        with pytest.raises(ValueError):
            pack_pairs(b"MSET", key_words(b"n:g:u:", np.arange(2)), [b"v"] * number)


class Connection:
    """Answers with what it was given; an exception is raised, as redis-py's connection does."""

    def __init__(self, *replies):
        self.replies = list(replies)

    def read_response(self):
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def test_a_refusal_in_the_middle_keeps_the_replies_in_step():
    refusal = exceptions.ReadOnlyError("no")
    connection = Connection(b"OK", refusal, 5, b"of the next command")
    assert list(read_replies(connection, 3)) == [b"OK", refusal, 5]
    assert connection.replies == [b"of the next command"]


def test_a_connection_that_is_lost_in_the_middle_is_no_reply():
    connection = Connection(b"OK", exceptions.ConnectionError("gone"), 5)
    with pytest.raises(exceptions.ConnectionError, match="gone"):
        list(read_replies(connection, 3))


def test_the_first_refusal_is_raised():
    raise_first([b"OK", 1, None])
    with pytest.raises(exceptions.OutOfMemoryError, match="the cause"):
        raise_first([b"OK", exceptions.OutOfMemoryError("the cause"), exceptions.ExecAbortError("what follows")])

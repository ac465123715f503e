"""Commands that name thousands of keys, as the bytes that Redis reads: joined as a whole, not word by word.

redis-py looks at every word of a command by itself, which costs a client more than all else of an upload. Connections,
TLS, passwords and replies stay redis-py's: what is made here goes through its `Connection.send_packed_command`.

The form is RESP's: a command is an array, `*WORDS`, of bulk strings, `$BYTES`, a line, the bytes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from redis import exceptions

DIGITS = 20  # at most, of an int64 and its sign


def bulk(word: bytes) -> bytes:
    """A word as a bulk string, without its last line end."""
    return b"$%d\r\n%b" % (len(word), word)


def pack(*words: bytes) -> bytes:
    """A command of a few words."""
    return pack_words(*map(bulk, words))


def pack_words(*words: bytes) -> bytes:
    """A command.

    Args:
        words: As `bulk` and `key_words` give them.
    """
    return b"*%d\r\n%b\r\n" % (len(words), b"\r\n".join(words))


def key_words(prefix: bytes, user_ids: np.ndarray) -> list[bytes]:
    """Each key `<prefix><user_id>` as a bulk string without its last line end.

    Args:
        user_ids: int64 [N]; written in decimal.
    """
    heads = [b"$%d\r\n%b" % (len(prefix) + digits, prefix) for digits in range(DIGITS + 1)]
    return [heads[len(number)] + number for number in map(b"%d".__mod__, np.asarray(user_ids, np.int64).tolist())]


def pack_keys(command: bytes, keys: list[bytes]) -> bytes:
    """A command on keys.

    Args:
        keys: As `key_words` gives them; at least one.
    """
    return b"\r\n".join((_head(command, len(keys)), *keys, b""))


def pack_pairs(command: bytes, keys: list[bytes], values: list[bytes]) -> bytes:
    """A command on keys and values alternating; of a key that comes twice, the later value comes later.

    Args:
        keys: As `key_words` gives them; at least one.
        values: As many; of any sizes.

    Raises:
        ValueError: another number of values than of keys.
    """
    words = [b""] * (3 * len(keys) + 2)
    words[0] = _head(command, 2 * len(keys))
    words[1:-1:3] = keys
    words[2:-1:3] = [b"$%d" % len(value) for value in values]
    words[3:-1:3] = values
    return b"\r\n".join(words)


def _head(command: bytes, words: int) -> bytes:
    return b"*%d\r\n$%d\r\n%b" % (1 + words, len(command), command)


def read_replies(connection: Any, count: int) -> Iterator[Any]:
    """Reads as many replies from one of redis-py's connections; one that refuses a command is given as an exception.

    Raises:
        redis.exceptions.ConnectionError, TimeoutError: the connection is gone, and what was not given with it.
    """
    for _ in range(count):
        try:
            reply = connection.read_response()
        except exceptions.ResponseError as error:
            reply = error
        yield reply


def raise_first(replies: list[Any]) -> None:
    """Raises the first of some replies that is an exception: what came after it may be its consequence."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply

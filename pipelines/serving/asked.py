"""What a request asks for, checked."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from pipelines.serving.problems import Problem, invalid
from stores.id_names import Id, parse_id
from stores.string_ids import STRING


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much one request may ask for.

    Attributes:
        k: Pins for one user.
        ids: Users in one request.
        answers: Users times k in one request.
        body: Bytes of a request.
    """

    k: int = 1000
    ids: int = 1000
    answers: int = 100_000
    body: int = 1 << 20


@dataclasses.dataclass(frozen=True)
class PinsAsked:
    """How pins are asked for.

    Attributes:
        k: How many.
        exclude_engaged: Without those of the user's kept history.
        where: A filter, as `pipelines.serving.where` reads it; empty: none.
    """

    k: int
    exclude_engaged: bool
    where: str


PINS_QUERY = ("k", "exclude_engaged", "where")
DEFAULT_K = 10
TRUTH = {"true": True, "1": True, "false": False, "0": False, "": True}


def check_names(given: Sequence[str], known: Sequence[str], what: str) -> None:
    """Raises Problem of a name that nobody knows: one that is misspelled would be taken for not given."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
            raise invalid(f"unknown {what} {name[:80]!r}; {hint}")
    if len(set(given)) < len(given):
        raise invalid(f"a {what} is given twice")


def whole_number(name: str, text: str, least: int, most: int) -> int:
    """A whole number of a query.

    Raises:
        Problem: it is none, or not between the two.
    """
    if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 18:
        raise invalid(f"{name} must be a whole number from {least} to {most}, got {text[:40]!r}")
    return _between(name, int(text), least, most)


def _between(name: str, number: int, least: int, most: int) -> int:
    if not least <= number <= most:
        raise invalid(f"{name} must be from {least} to {most}, got {number}")
    return number


def pins_query(query: Mapping[str, str], names: Sequence[str], limits: Limits) -> PinsAsked:
    """What the query of a GET asks for; `names` as they stand there, repeated ones too.

    Raises:
        Problem: a name or a value that is none.
    """
    check_names(names, PINS_QUERY, "parameter")
    engaged = query.get("exclude_engaged", "false").lower()
    if engaged not in TRUTH:
        raise invalid(f"exclude_engaged must be true or false, got {engaged[:40]!r}")
    k = whole_number("k", query.get("k", str(min(DEFAULT_K, limits.k))), 1, limits.k)
    return PinsAsked(k, TRUTH[engaged], query.get("where", ""))


def parse_body(data: bytes, known: Sequence[str]) -> dict[str, Any]:
    """A JSON object with `ids` and no key but those known.

    Raises:
        Problem: not JSON (400), or another thing (422).
    """
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise invalid('the body must be a JSON object, {"ids": [...]}')
    check_names(list(found), known, "key")
    return found


def ids_of(body: Mapping[str, Any], limits: Limits) -> list[Id]:
    """The ids of a body, as they are there; of which kind they are to be, the store knows.

    Raises:
        Problem: not a list of whole numbers and strings, or a longer one than is answered.
    """
    ids = body.get("ids")
    if not isinstance(ids, list):
        raise invalid("ids must be a list of ids, as the logs have them")
    if len(ids) > limits.ids:
        raise invalid(f"ids: {len(ids):,} of them, at most {limits.ids:,} are answered at once; ask in parts")
    for one in ids:
        if type(one) not in (int, str):
            raise invalid(f"ids must be whole numbers or strings, got {str(one)[:40]}")
    return ids


def pins_body(body: Mapping[str, Any], limits: Limits) -> tuple[list[Id], PinsAsked]:
    """What the body of a POST asks for.

    Raises:
        Problem: a value that is none, or more than is answered at once.
    """
    ids = ids_of(body, limits)
    k, engaged, where = (body.get(name, default) for name, default in zip(PINS_QUERY, (None, False, ""), strict=True))
    if k is not None and type(k) is not int:
        raise invalid(f"k must be a whole number from 1 to {limits.k}, got {str(k)[:40]}")
    if type(engaged) is not bool or type(where) is not str:
        raise invalid("exclude_engaged must be true or false, and where a string")
    k = min(DEFAULT_K, limits.k) if k is None else _between("k", k, 1, limits.k)
    if k * len(ids) > limits.answers:
        raise invalid(f"{len(ids):,} users times k {k:,}: at most {limits.answers:,} pins are answered at once")
    return ids, PinsAsked(k, engaged, where)


def path_id(text: str, kind: str, word: str) -> Id:
    """The id in a path, as the logs have it.

    Raises:
        Problem: it can be nobody's.
    """
    if kind == STRING:
        if not text:
            raise invalid(f"an empty string is no {word} id")
        return text
    found = parse_id(text, kind)
    if found is None:
        raise invalid(f"{text[:80]!r} is not a {word} id; the {word} ids here are whole numbers (int64)")
    return found

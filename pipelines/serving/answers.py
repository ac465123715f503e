"""What is answered, as JSON: pure functions of what a reader found."""

import base64
from typing import Any

import numpy as np

from pipelines.serving.problems import UnknownId, no_vector
from pipelines.serving.reader import Pins, Release, Vectors
from stores.id_names import Id, quoted

FLOATS, BASE64 = ENCODINGS = ("floats", "base64")


def lookup_answer(found: Vectors, encoding: str) -> dict[str, Any]:
    """Of `POST /v1/embeddings:lookup`: an entry a user in the order asked, null where there is no vector.

    Args:
        encoding: "floats": lists of numbers; "base64": the float16 of a vector, little-endian.
    """
    days = np.datetime_as_string(found.days).tolist() if len(found.days) else []
    if encoding == BASE64:
        rows: Any = [base64.b64encode(row).decode() for row in found.embeddings]
    else:
        rows = found.embeddings
    users = [
        {"user_id": user, "embedding_day": day, "embedding": row} if there else None
        for user, day, row, there in zip(found.users, days, rows, found.found.tolist(), strict=True)
    ]
    return {
        "release": found.current.release,
        "model": found.current.model_digest[:12],
        "dim": found.embeddings.shape[1],
        "encoding": encoding,
        "embeddings": users,
    }


def pins_rows(pins: Pins) -> list[dict[str, Any]]:
    """Pins, best first."""
    scores = pins.scores.astype(float).round(6).tolist()
    return [{"pin_id": pin, "score": score} for pin, score in zip(pins.ids.tolist(), scores, strict=True)]


def user_rows(vectors: Vectors, row: int, pins: Pins) -> dict[str, Any]:
    """The pins of one user."""
    day = str(vectors.days[row])
    return {"user_id": vectors.users[row], "embedding_day": day, "pins": pins_rows(pins)}


def user_answer(vectors: Vectors, release: Release, pins: list[Pins | None]) -> dict[str, Any]:
    """Of `GET /v1/users/{id}/pins`.

    Raises:
        UnknownId: the user has no vector.
    """
    if pins[0] is None:
        raise unknown_user(vectors.users[0], vectors)
    return {"release": release.name, **user_rows(vectors, 0, pins[0])}


def users_answer(vectors: Vectors, release: Release, pins: list[Pins | None]) -> dict[str, Any]:
    """Of `POST /v1/users:pins`: an entry a user in the order asked, null where there is no vector."""
    users = [None if found is None else user_rows(vectors, row, found) for row, found in enumerate(pins)]
    return {"release": release.name, "users": users}


def neighbours_answer(release: Release, pin: Id, pins: Pins) -> dict[str, Any]:
    """Of `GET /v1/pins/{id}/neighbours`."""
    return {"release": release.name, "pin_id": pin, "pins": pins_rows(pins)}


def unknown_user(user: Id, vectors: Vectors) -> UnknownId:
    """Nobody of that id has a vector."""
    shown = quoted(user) if isinstance(user, str) else str(user)
    more = "(some that have one: `pinnerformer retrieve` without --user)"
    return UnknownId(f"{no_vector(shown, vectors.current.release, vectors.current.users)} {more}")

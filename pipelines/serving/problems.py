"""Errors as HTTP says them: JSON problem documents (RFC 9457)."""

import http
from collections.abc import Mapping

from stores.errors import PinnerFormerError, UsageError

PROBLEM_JSON = "application/problem+json"


class Problem(Exception):
    """An answer that is an error.

    Attributes:
        status: Of HTTP.
        detail: What is wrong and what to do, for people.
        headers: To send beside it.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None):
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})

    def document(self) -> dict[str, object]:
        """The body."""
        title = http.HTTPStatus(self.status).phrase
        return {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail}


class UnknownId(Problem):
    """A user or a pin that the release has not."""

    def __init__(self, detail: str):
        super().__init__(404, detail)


def no_vector(shown: str, release: str, users: int) -> str:
    """Why a user may have no vector in a release of so many.

    Args:
        shown: The id, as a message shows it.
    """
    return (
        f"user {shown}: no vector in release {release} of {users:,} users; they have no usable action in the logs read "
        "so far, are spelled otherwise there, or were erased"
    )


def invalid(detail: str) -> Problem:
    """What was asked cannot be answered, whatever is served."""
    return Problem(422, detail)


RETRY_S = "2"


def problem_of(error: Exception) -> Problem | None:
    """What an exception is to whoever asked; None of one that is a fault of this program.

    A store that is down, a root that cannot be read, nothing published: 503, and to be tried again.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, UsageError):
        return invalid(str(error))
    if isinstance(error, PinnerFormerError):
        return Problem(503, str(error), {"retry-after": RETRY_S})
    return None

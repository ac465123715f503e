"""Prose of a study's page: lines of one width, lists of values."""

import textwrap
from collections.abc import Sequence
from typing import Any

WIDTH = 110  # columns of prose, as of all our pages


def listed(values: Sequence[Any], form: str) -> str:
    """Values in words, each once, in their order: `5, 10 or 30`; nothing stands for None: `all`."""
    found = list(dict.fromkeys("all" if value is None else form.format(value) for value in values))
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"


def wrap(part: str) -> str:
    """A part of the page in lines of at most `WIDTH` columns; headings, tables and pictures stay in one line each.

    A number and its % are not parted.
    """
    if part.startswith(("#", "|", "!")):
        return part
    lines = part.splitlines() if part.startswith("- ") else [" ".join(part.split())]
    return "\n".join(
        textwrap.fill(
            line.replace(" %", "\0%"),
            WIDTH,
            subsequent_indent="  " * line.startswith("- "),
            break_long_words=False,
            break_on_hyphens=False,
        ).replace("\0", " ")
        for line in lines
    )

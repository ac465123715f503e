"""DuckDB as the engine that reads other people's tables: in memory, streaming, and with nothing from the network."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from stores.errors import InputError
from stores.extras import load

BATCH_ROWS = 1 << 16
_EXTENSION = re.compile(r"(?:requires the extension|exists in the) (\w+)")


def connect(memory: str, scratch: str) -> Any:
    """A database in memory that loads and installs no extension by itself.

    Args:
        memory: How much it may hold, `1GB`; sorts and aggregates of more go to `scratch`.
        scratch: A folder for what does not fit.

    Raises:
        UsageError: DuckDB is not installed.
    """
    duckdb = load("duckdb", "import", "reading tables")
    settings = {
        # A release of an extension is downloaded from its maker's server, unasked, unless both are off.
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "memory_limit": memory,
        "temp_directory": scratch,
    }
    connection = duckdb.connect(config=settings)
    # Of this machine otherwise: a text without a zone would be taken for local time without a word.
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def quote(name: str) -> str:
    """A name of a column or a table, as SQL takes it whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text as SQL takes it."""
    return "'" + value.replace("'", "''") + "'"


@contextlib.contextmanager
def explain_errors(what: str) -> Iterator[None]:
    """Turns DuckDB's refusals into messages that name what was read.

    Raises:
        InputError: in place of every error of DuckDB's.
    """
    duckdb = load("duckdb", "import", "reading tables")
    try:
        yield
    except duckdb.Error as error:
        first = str(error).strip().splitlines()[0]
        if "state machine reached an invalid state" in first:
            first = (
                "its lines end in different ways, with and without a carriage return; make them alike, dos2unix FILE"
            )
        if missing := _EXTENSION.search(str(error)):
            first = (
                f"it needs DuckDB's extension {missing[1]}, and nothing is downloaded here: give a local file, or let "
                "another tool write one"
            )
        raise InputError(f"{what}: cannot be read ({first})") from error


def describe(connection: Any, sql: str) -> dict[str, str]:
    """Column -> DuckDB's type, of what a query gives; the query does not run."""
    found = connection.sql(sql)
    return dict(zip(found.columns, map(str, found.types), strict=True))


def stream(connection: Any, sql: str, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """Yields what a query gives, in its order, a few batches in memory at a time."""
    yield from connection.sql(sql).to_arrow_reader(batch_rows)


def rows_of(connection: Any, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple]:
    """The rows of a small answer."""
    return connection.execute(sql, parameters or {}).fetchall()

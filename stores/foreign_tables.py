"""Tables that DuckDB cannot read without an extension of the network: SQLite, Delta and Iceberg, by their own readers.

Each gives a name for messages, an Arrow schema, and a function that reads some columns as a stream of record batches.
"""

import contextlib
import glob
import os
import re
import sqlite3
from collections.abc import Callable, Iterator

import pyarrow as pa

from stores.duck import BATCH_ROWS
from stores.errors import InputError
from stores.extras import load

Read = Callable[[list[str]], pa.RecordBatchReader]
_SQLITE_TYPES = {"integer": pa.int64(), "real": pa.float64(), "text": pa.string(), "blob": pa.binary()}


def open_sqlite(flag: str, path: str, table: str | None, table_flag: str) -> tuple[str, pa.Schema, Read]:
    """A table of an SQLite file.

    SQLite keeps a type with every value, not with a column: a column of whole numbers and texts is text here.

    Raises:
        InputError: no such file or table, it is damaged, or which table is meant is not said.
    """
    name = f"{path}, table {table}"
    with _sqlite(name, path) as connection:
        held = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
        held = sorted(one for one in held if not one.startswith("sqlite_"))
        if table is None and len(held) != 1:
            known = ", ".join(held) or "none"
            raise InputError(f"{flag} {path}: which table? Say {table_flag} NAME, of: {known}")
        table = held[0] if table is None else table
        if table not in held:
            raise InputError(f"{flag} {path}: no table {table!r} (it has {', '.join(held)})")
        name = f"{path}, table {table}"
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({_quote(table)})")]
        kinds = ("text", "blob", "real", "integer")
        asked = ", ".join(f"max(typeof({_quote(one)}) = '{kind}')" for one in columns for kind in kinds)
        found = iter(connection.execute(f"SELECT {asked} FROM {_quote(table)}").fetchone())
    fields = []
    for column in columns:
        there = [kind for kind in kinds if next(found)]
        if "blob" in there and len(there) > 1:
            raise InputError(f"{name}: column {column!r} has bytes beside other values; make it one of the two")
        fields.append(pa.field(column, _SQLITE_TYPES[there[0]] if there else pa.string()))
    schema = pa.schema(fields)

    def read(wanted: list[str]) -> pa.RecordBatchReader:
        chosen = pa.schema([schema.field(one) for one in wanted])
        return pa.RecordBatchReader.from_batches(chosen, _sqlite_batches(name, path, table or "", chosen))

    return name, schema, read


def _sqlite_batches(name: str, path: str, table: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    asked = ", ".join(
        f"CAST({_quote(field.name)} AS TEXT)" if field.type == pa.string() else _quote(field.name) for field in schema
    )
    with _sqlite(name, path) as connection:
        cursor = connection.execute(f"SELECT {asked} FROM {_quote(table)}")
        while rows := cursor.fetchmany(BATCH_ROWS):
            columns = zip(*rows, strict=True)
            yield pa.record_batch(
                [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
            )


@contextlib.contextmanager
def _sqlite(name: str, path: str) -> Iterator[sqlite3.Connection]:
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file")
    address = "file:" + re.sub(r"[%?#]", lambda found: f"%{ord(found[0]):02x}", os.path.abspath(path)) + "?mode=ro"
    try:
        # From another thread too: DuckDB pulls batches from its own.
        with contextlib.closing(sqlite3.connect(address, uri=True, check_same_thread=False)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise InputError(f"{name}: not readable as SQLite ({error})") from error


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def open_delta(flag: str, path: str) -> tuple[str, pa.Schema, Read]:
    """The newest version of a Delta table in a local folder.

    Raises:
        UsageError: `deltalake` is not installed.
        InputError: it is no Delta table, or of a feature that its reader does not know.
    """
    deltalake = load("deltalake", "delta", f"{flag} {path}")
    try:
        table = deltalake.DeltaTable(path)
        dataset = table.to_pyarrow_dataset()
    except Exception as error:  # its errors have no common class but Exception
        raise InputError(f"{path}: not readable as a Delta table ({str(error).splitlines()[0]})") from error
    name = f"{path}, version {table.version()}"
    return name, dataset.schema, lambda wanted: dataset.scanner(columns=wanted, batch_size=BATCH_ROWS).to_reader()


def open_iceberg(flag: str, path: str) -> tuple[str, pa.Schema, Read]:
    """The current snapshot of an Iceberg table, without a catalogue: of its newest metadata file.

    Args:
        path: The table's folder, or one of its `metadata/*.metadata.json`.

    Raises:
        UsageError: `pyiceberg` is not installed.
        InputError: it is no Iceberg table, or of a feature that its reader does not know.
    """
    pyiceberg = load("pyiceberg.table", "iceberg", f"{flag} {path}")

    file = path if os.path.isfile(path) else newest_metadata(path)
    try:
        table = pyiceberg.StaticTable.from_metadata(file)
        schema = table.scan().to_arrow_batch_reader().schema
    except Exception as error:  # its errors have no common class but Exception
        raise InputError(f"{file}: not readable as an Iceberg table ({str(error).splitlines()[0]})") from error

    def read(wanted: list[str]) -> pa.RecordBatchReader:
        return table.scan(selected_fields=tuple(wanted)).to_arrow_batch_reader()

    return f"{path}, {os.path.basename(file)}", schema, read


def newest_metadata(folder: str) -> str:
    """The metadata file of the newest version: of the hint where there is one, else of the highest number.

    Raises:
        InputError: there is none.
    """
    files = glob.glob(os.path.join(glob.escape(folder), "metadata", "*.metadata.json"))
    if not files:
        raise InputError(f"{folder}: no metadata/*.metadata.json in it")
    hint = os.path.join(folder, "metadata", "version-hint.text")
    if os.path.exists(hint):
        with open(hint) as text:
            hinted = os.path.join(folder, "metadata", f"v{text.read().strip()}.metadata.json")
        if hinted in files:
            return hinted

    def number(file: str) -> tuple[int, str]:
        found = re.match(r"v?(\d+)", os.path.basename(file))
        return (int(found[1]) if found else -1, file)

    return max(files, key=number)

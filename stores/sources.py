"""Other people's tables, whatever they lie in: found, opened by DuckDB, and described, a file at a time."""

import csv
import dataclasses
import glob
import io
import itertools
import os
from typing import Any

import pyarrow as pa

from stores import duck
from stores.errors import InputError, UsageError
from stores.foreign_tables import open_delta, open_iceberg, open_sqlite
from stores.object_stores import is_url
from stores.partitions import is_hidden
from stores.table_parts import Chosen, JsonLines, TablePart

SUFFIXES = {
    "csv": (".csv", ".tsv", ".txt"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "parquet": (".parquet", ".pq"),
    "duckdb": (".duckdb", ".ddb"),
    "sqlite": (".sqlite", ".sqlite3"),
}
KINDS = (*SUFFIXES, "delta", "iceberg")
COMPRESSED = (".gz", ".zst")
DELIMITERS = ",\t;|"
_HEAD_BYTES = 1 << 20  # in which the first record of a CSV must end
_names = itertools.count()

Part = TablePart | JsonLines
__all__ = ["KINDS", "Chosen", "Part", "SourceRequest", "open_source", "source_files"]


@dataclasses.dataclass(frozen=True)
class SourceRequest:
    """Where rows are to be read.

    Attributes:
        flag: That names it, for messages: `--events`.
        where: Files, folders or patterns; empty where `sql` reads what it names itself.
        kind: Of `KINDS`; None: by the suffix, or by what a folder holds.
        table: Of a database.
        sql: A query that DuckDB runs, over the tables of a DuckDB file where one is given.
        delimiter: Of a CSV; None: as its first line has it.
        prefix: Of the flags that say more of it.
    """

    flag: str
    where: tuple[str, ...]
    kind: str | None = None
    table: str | None = None
    sql: str | None = None
    delimiter: str | None = None
    prefix: str = "--"

    def option(self, word: str) -> str:
        """The flag that says more of the source: `--table`, `--vectors-table`."""
        return f"{self.prefix}{word}"


def open_source(connection: Any, request: SourceRequest) -> list[Part]:
    """The parts of a source, a file or a table each, in the order of their names.

    Raises:
        UsageError: flags that do not go together, a library that is missing.
        InputError: no such file, one that is not what it is called, or whose kind or table no flag says.
    """
    if request.sql is not None:
        return [_open_query(connection, request)]
    if not request.where:
        raise UsageError(f"{request.flag} is missing: a file, a folder, or a query by {request.option('sql')}")
    parts: list[Part] = []
    for where in request.where:
        parts += _open_one(connection, request, where)
    return parts


def source_files(request: SourceRequest) -> list[str]:
    """The local files that a source consists of, sorted: what tells two readings of it apart."""
    found = []
    for where in request.where:
        for path in _expand(request.flag, where):
            found += _files_below(path, everything=True) if os.path.isdir(path) else [path]
    return sorted(found)


def _open_query(connection: Any, request: SourceRequest) -> TablePart:
    sql = (request.sql or "").strip().rstrip(";")
    if len(request.where) > 1:
        raise UsageError(f"{request.flag}: a query takes one DuckDB file, not {len(request.where)}")
    for path in request.where:
        kind = request.kind or (_kind_of(request, path) if os.path.exists(path) else "duckdb")
        if kind != "duckdb":
            raise UsageError(
                f"{request.flag} {path}: a query names its files itself, FROM '{path}'; leave {request.flag} out "
                "(beside a query it is the DuckDB file whose tables are meant)"
            )
        _attach(connection, request.flag, path)
    with duck.explain_errors(request.option("sql")):
        if len(connection.extract_statements(sql)) != 1:
            raise UsageError(f"{request.option('sql')}: expected one SELECT")
        duck.describe(connection, f"SELECT * FROM ({sql})")
    return TablePart("the query", f"({sql})")


def _open_one(connection: Any, request: SourceRequest, where: str) -> list[Part]:
    found: list[Part] = []
    for path in _expand(request.flag, where):
        kind = request.kind or _kind_of(request, path)
        if kind in ("duckdb", "sqlite", "delta", "iceberg"):
            found.append(_open_table(connection, request, kind, path))
            continue
        if request.table is not None:
            raise UsageError(f"{request.flag} {path}: a {kind} file has no tables; leave the table's name out")
        files = _files_below(path) if os.path.isdir(path) else [path]
        if not files:
            raise InputError(f"{request.flag} {path}: no file in it")
        found += [_open_file(request, request.kind or _kind_of(request, file), file) for file in files]
    return found


def _expand(flag: str, where: str) -> list[str]:
    """The paths that a pattern names."""
    if is_url(where):
        raise UsageError(f"{flag} {where}: only local files are imported; copy it here first")
    if os.path.exists(where):
        return [where]
    found = sorted(glob.glob(where, recursive=True))
    if not found:
        raise InputError(f"{flag} {where}: no such file or folder")
    return found


def _files_below(folder: str, *, everything: bool = False) -> list[str]:
    """Every file in a folder and in its folders, sorted; hidden names are left alone."""
    found = []
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if everything or not is_hidden(name)]
        found += [os.path.join(at, name) for name in files if everything or not is_hidden(name)]
    return sorted(found)


def _kind_of(request: SourceRequest, path: str) -> str:
    """What a file is, by its suffix, else by its first bytes; what a folder holds."""
    if os.path.isdir(path):
        if os.path.isdir(os.path.join(path, "_delta_log")):
            return "delta"
        if glob.glob(os.path.join(glob.escape(path), "metadata", "*.metadata.json")):
            return "iceberg"
        return next((_kind_of(request, file) for file in _files_below(path)[:1]), "parquet")
    name = path.lower()
    if name.endswith(".metadata.json"):
        return "iceberg"
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    for kind, suffixes in SUFFIXES.items():
        if name.endswith(suffixes):
            return kind
    with open(path, "rb") as file:
        head = file.read(16)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"SQLite format 3"):
        return "sqlite"
    if head[8:12] == b"DUCK":
        return "duckdb"
    raise InputError(
        f"{request.flag} {path}: what kind of file it is does not show; say {request.option('format')} KIND"
    )


def _open_file(request: SourceRequest, kind: str, path: str) -> Part:
    if kind == "csv":
        return _open_csv(request, path)
    if kind == "jsonl":
        return _open_json_lines(path)
    # Names of folders, `country=de/`, are columns; a file's own column of that name comes first.
    sql = f"read_parquet({duck.text(path)}, hive_partitioning={'=' in os.path.dirname(path)})"
    return TablePart(path, sql)


def _open_csv(request: SourceRequest, path: str) -> TablePart:
    """A CSV by RFC 4180: nothing but the delimiter and the names is taken from its content.

    DuckDB's own detection looks for quotes, types and headers in a sample: of a file with quoted line ends it chose
    another quote, and of ids like 0017 it would drop the zeros.
    """
    names, delimiter = _read_header(path, request.delimiter)
    columns = ", ".join(f"{duck.text(name)}: 'VARCHAR'" for name in names)
    sql = (
        f"read_csv({duck.text(path)}, columns={{{columns}}}, auto_detect=false, header=true, quote='\"', escape='\"', "
        f"delim={duck.text(delimiter)}, store_rejects=true, rejects_limit=0, max_line_size=16777216)"
    )
    return TablePart(path, sql, rejects=True)


def _read_header(path: str, delimiter: str | None) -> tuple[list[str], str]:
    """The names of a CSV's columns, and what separates them."""
    head = _read_head(path)
    if delimiter is None:
        first = head.split("\n", 1)[0]
        delimiter = max(DELIMITERS, key=first.count)
    names = next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter), [])
    if not names or not any(names):
        raise InputError(f"{path}: empty; expected a first line with the names of the columns")
    if len(set(names)) < len(names) or "" in names:
        twice = next(name for name in names if name == "" or names.count(name) > 1)
        raise InputError(f"{path}: two columns are called {twice!r}, or one has no name; name them in the first line")
    return names, delimiter


def _read_head(path: str) -> str:
    try:
        with pa.input_stream(path, compression="detect") as stream:
            data = stream.read(_HEAD_BYTES)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    return data.decode("utf-8", "replace").removeprefix("\ufeff")


def _open_json_lines(path: str) -> JsonLines:
    if _read_head(path).lstrip().startswith("["):
        raise InputError(
            f"{path}: one JSON array, not an object a line; write an object a line (jq -c '.[]'), or read it by a "
            f"query: SELECT * FROM read_json({duck.text(path)})"
        )
    sql = (
        f"read_csv({duck.text(path)}, columns={{line: 'VARCHAR'}}, auto_detect=false, header=false, delim='\x01', "
        "quote='', escape='', max_line_size=16777216)"
    )
    return JsonLines(path, sql)


def _open_table(connection: Any, request: SourceRequest, kind: str, path: str) -> TablePart:
    if kind == "duckdb":
        database = _attach(connection, request.flag, path)
        name = request.table or _only_table(connection, request, path, database)
        sql = ".".join(duck.quote(word) for word in [database, *name.split(".")])
        with duck.explain_errors(f"{request.flag} {path}"):
            duck.describe(connection, f"SELECT * FROM {sql}")
        return TablePart(f"{path}, table {name}", sql)
    if kind != "sqlite" and request.table is not None:
        raise UsageError(f"{request.flag} {path}: a table of {kind.capitalize()} is a folder; leave its name out")
    if kind == "sqlite":
        name, schema, read = open_sqlite(request.flag, path, request.table, request.option("table"))
    else:
        name, schema, read = (open_delta if kind == "delta" else open_iceberg)(request.flag, path)
    return TablePart(name, f"source_{next(_names)}", schema, read)


def _attach(connection: Any, flag: str, path: str) -> str:
    """Opens a DuckDB file for reading and makes its tables the ones that names without more stand for."""
    if not os.path.isfile(path):
        raise InputError(f"{flag} {path}: no such file")
    alias = f"file_{next(_names)}"
    with duck.explain_errors(f"{flag} {path}"):
        connection.execute(f"ATTACH {duck.text(path)} AS {alias} (READ_ONLY)")
        connection.execute(f"USE {alias}")
    return alias


def _only_table(connection: Any, request: SourceRequest, path: str, database: str) -> str:
    sql = "SELECT schema_name || '.' || {0}_name FROM duckdb_{0}s() WHERE database_name = $name AND NOT internal"
    found = [
        name for kind in ("table", "view") for (name,) in duck.rows_of(connection, sql.format(kind), {"name": database})
    ]
    if len(found) != 1:
        held = ", ".join(sorted(name.removeprefix("main.") for name in found)) or "none"
        raise InputError(f"{request.flag} {path}: which table? Say {request.option('table')} NAME, of: {held}")
    return found[0]

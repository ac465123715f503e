"""One part of a source: a file or a table, and its columns as SQL, flat or nested, typed or not."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from stores import duck
from stores.errors import InputError

SAMPLE_LINES = 10_000  # of JSON lines, in which keys and kinds of values are looked for
TEXT, WHOLE, NUMBER, LIST = "VARCHAR", "BIGINT", "DOUBLE", "DOUBLE[]"
_JSON_KINDS = {
    "VARCHAR": TEXT,
    "BIGINT": WHOLE,
    "UBIGINT": WHOLE,
    "DOUBLE": NUMBER,
    "HUGEINT": NUMBER,
    "ARRAY": LIST,
    "BOOLEAN": TEXT,
}


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Some columns of a part, ready to be read.

    Attributes:
        sql: What stands after FROM; its columns are `c0`, `c1`, ... in the order asked for.
        types: DuckDB's type of each value, whatever the column that carries it.
        as_text: Whether values of numbers come as text: a format that has no types in its columns.
        broken: SQL that is true of a row that is no row; None where there can be none.
        line: SQL of such a row as it stands in the file.
        renew: To be called before every reading: some tables can be read once.
    """

    sql: str
    types: tuple[str, ...]
    as_text: bool = False
    broken: str | None = None
    line: str = "NULL"
    renew: Callable[[], object] = bool


@dataclasses.dataclass(frozen=True)
class TablePart:
    """A file or a table with named columns.

    Attributes:
        name: For messages.
        sql: What stands after FROM; of a table that is not read by DuckDB itself, the name it is to have there.
        schema: Of such a table.
        read: Reads some columns of such a table, once from its beginning to its end.
        rejects: Whether DuckDB notes what it cannot read of it (a CSV); its columns are text then.
    """

    name: str
    sql: str
    schema: pa.Schema | None = None
    read: Callable[[list[str]], pa.RecordBatchReader] | None = None
    rejects: bool = False

    def columns(self, connection: Any) -> dict[str, str]:
        """Name -> type."""
        if self.schema is not None:
            connection.register(self.sql, self.schema.empty_table())
        with duck.explain_errors(self.name):
            return duck.describe(connection, f"SELECT * FROM {self.sql}")

    def choose(self, connection: Any, wanted: Sequence[str]) -> Chosen:
        """Some columns; `user.id` is a field of a nested one, unless a column is called so.

        Raises:
            InputError: there is no such column; says which there are.
        """
        known = self.columns(connection)
        tops = [top for name in wanted if (top := _top_of(name, known)) is not None]
        for name in wanted:
            if _top_of(name, known) is None:
                raise InputError(f"{self.name}: no column {name!r} (it has {', '.join(known)})")
        paths = [[name] if name in known else name.split(".") for name in wanted]
        cells = [f"{'.'.join(map(duck.quote, path))} AS c{number}" for number, path in enumerate(paths)]
        source = f"(SELECT {', '.join(cells)} FROM {self.sql})"
        with duck.explain_errors(f"{self.name}: columns {', '.join(wanted)}"):
            types = tuple(duck.describe(connection, f"SELECT * FROM {source}").values())
        if self.read is None:
            return Chosen(source, types, as_text=self.rejects)
        read, names = self.read, [name for name in known if name in tops]
        return Chosen(source, types, renew=lambda: connection.register(self.sql, read(names)))

    def missing(self, connection: Any, wanted: Sequence[str]) -> list[str]:
        """Those that it does not have."""
        known = self.columns(connection)
        return [name for name in wanted if _top_of(name, known) is None]


def _top_of(name: str, known: dict[str, str]) -> str | None:
    """The column that a name is of; None if there is none."""
    if name in known:
        return name
    top = name.partition(".")[0]
    return top if top != name and known.get(top, "").startswith("STRUCT") else None


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """A file of an object a line; columns are keys, nested ones `user.id`.

    Lines are read as text, and only those that are JSON are looked into: DuckDB's own reader makes an empty row of a
    broken line, which cannot be distinguished from one without the keys.

    Attributes:
        relation: What stands after FROM and gives `line`.
    """

    name: str
    relation: str
    rejects: bool = False

    def _sample(self) -> str:
        lines = f"SELECT line FROM {self.relation} WHERE trim(line) <> '' LIMIT {SAMPLE_LINES}"
        return f"(SELECT line FROM ({lines}) WHERE CASE WHEN json_valid(line) THEN json_type(line) = 'OBJECT' END)"

    def columns(self, connection: Any) -> dict[str, str]:
        """Key -> the kind of its values in the first lines."""
        with duck.explain_errors(self.name):
            keys = duck.rows_of(
                connection,
                f"SELECT key FROM (SELECT unnest(json_keys(line)) AS key FROM {self._sample()}) "
                "GROUP BY key ORDER BY count(*) DESC, key",
            )
        names = [key for (key,) in keys]
        return dict(zip(names, self._kinds(connection, [_path([name]) for name in names]), strict=True))

    def _kinds(self, connection: Any, paths: list[str]) -> list[str]:
        """What the values under paths are; "" where there is none."""
        asked = ", ".join(f"list(DISTINCT json_type(line, {duck.text(path)}))" for path in paths)
        with duck.explain_errors(self.name):
            found = duck.rows_of(connection, f"SELECT {asked} FROM {self._sample()}")[0] if paths else ()
        kinds = []
        for kind in found:
            seen = {_JSON_KINDS.get(one, one) for one in kind or () if one not in (None, "NULL")}
            whole_or_not = seen <= {WHOLE, NUMBER} and len(seen) == 2
            kinds.append(NUMBER if whole_or_not else seen.pop() if len(seen) == 1 else TEXT if seen else "")
        return kinds

    def _paths(self, connection: Any, wanted: Sequence[str]) -> list[str]:
        known = self.columns(connection)
        return [_path([name] if name in known else name.split(".")) for name in wanted]

    def choose(self, connection: Any, wanted: Sequence[str]) -> Chosen:
        """As `TablePart.choose`; a key must be there in one of the first 10,000 lines."""
        paths = self._paths(connection, wanted)
        kinds = self._kinds(connection, paths)
        for name, kind in zip(wanted, kinds, strict=True):
            if not kind:
                known = ", ".join(self.columns(connection)) or "none"
                raise InputError(
                    f"{self.name}: no key {name!r} in its first {SAMPLE_LINES:,} lines (they have {known})"
                )
        fields = ", ".join(f"found[{number + 1}] AS c{number}" for number in range(len(paths)))
        listed = ", ".join(map(duck.text, paths))
        sql = (
            f"(SELECT {fields}, found IS NULL AS broken, line FROM (SELECT line, CASE WHEN json_valid(line) "
            f"THEN json_extract_string(line, [{listed}]) END AS found FROM {self.relation} WHERE trim(line) <> ''))"
        )
        return Chosen(sql, tuple(kinds), as_text=True, broken="broken", line="line")

    def missing(self, connection: Any, wanted: Sequence[str]) -> list[str]:
        """Those that the first lines do not have."""
        kinds = self._kinds(connection, self._paths(connection, wanted))
        return [name for name, kind in zip(wanted, kinds, strict=True) if not kind]


def _path(names: Sequence[str]) -> str:
    return "$" + "".join('."' + re.sub(r'(["\\])', r"\\\1", name) + '"' for name in names)

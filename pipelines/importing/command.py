"""`pinnerformer import`: other people's tables into the inputs of a night."""

import contextlib
import os
from typing import Any

from pipelines.importing.events import EventsImport
from pipelines.importing.request import ImportRequest, make_parser, parse
from pipelines.importing.summary import print_report
from pipelines.importing.vectors import VectorsImport
from stores import duck
from stores.errors import InputError
from stores.import_folder import FOLDER, ImportFolder

__all__ = ["main", "make_parser", "parse"]


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    print_report(run(request), request)
    return 0


def run(request: ImportRequest) -> dict[str, Any]:
    """Imports; both parts become visible after both were read to their ends.

    Returns:
        `events` and `vectors`: what was read, written and dropped.

    Raises:
        UsageError, InputError: nothing was imported; says why and what to do.
    """
    with contextlib.ExitStack() as open_things:
        scratch = _scratch(request)
        if request.events is not None:
            folder = ImportFolder(request.events.logs)
            open_things.enter_context(folder.locked())
            folder.finish()  # of one that was killed while it moved its days
            folder.clear()
        connection = open_things.enter_context(contextlib.closing(duck.connect(request.memory, scratch)))
        vectors = VectorsImport.prepare(connection, request) if request.vectors else None
        events = EventsImport.prepare(connection, request) if request.events else None
        if vectors is not None:
            open_things.callback(vectors.close)
        if events is not None and vectors is not None and events.pin_ids != vectors.pin_ids:
            raise InputError(
                f"pins are {events.pin_ids} in {events.queries[0].part.name} and {vectors.pin_ids} in "
                f"{vectors.queries[0].part.name}; say --pin-ids int64 or --pin-ids string"
            )
        parts = {"events": events, "vectors": vectors}
        staged = {name: part.stage() for name, part in parts.items() if part is not None}
        return {name: part.commit(staged[name]) for name, part in parts.items() if part is not None}


def _scratch(request: ImportRequest) -> str:
    """Where DuckDB puts what it cannot hold: on the disk that the result goes to."""
    where = request.events.logs if request.events else request.vectors.pins if request.vectors else "."
    return os.path.join(os.path.abspath(where), FOLDER, "duckdb")

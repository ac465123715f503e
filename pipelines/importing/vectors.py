"""Vectors of other people's tables, read, staged, and made a vector set."""

import dataclasses
from typing import Any

import pyarrow as pa

from pipelines.importing.progress import Progress, check_dropped, counts_of, digest_of
from pipelines.importing.request import ImportRequest, VectorsRequest
from stores.errors import InputError
from stores.imported_vectors import VectorWriter, refuse_existing
from stores.sources import open_source
from stores.string_ids import INT64
from stores.vector_sets import read_manifest
from transforms.import_rows import Counts
from transforms.import_vectors import VectorQuery, VectorReader, find_repeated, make_query


@dataclasses.dataclass(frozen=True)
class VectorsImport:
    """An import of vectors whose columns are known and fit.

    Attributes:
        queries: One a part, in the order in which they are read.
        digest: Of the request and of the files as they are; None where they are not known.
    """

    connection: Any
    request: ImportRequest
    wanted: VectorsRequest
    queries: tuple[VectorQuery, ...]
    writer: VectorWriter
    digest: str | None

    @classmethod
    def prepare(cls, connection: Any, request: ImportRequest) -> "VectorsImport":
        """Opens the parts and checks their columns.

        Raises:
            UsageError, InputError: a column is missing, or a vector set is there; says the flag.
        """
        wanted = request.vectors
        assert wanted is not None  # the caller asked
        parts = open_source(connection, wanted.source)
        queries = tuple(make_query(connection, part, wanted.vectors) for part in parts)
        for query in queries[1:]:
            if query.pin_ids != queries[0].pin_ids:
                raise InputError(
                    f"{query.part.name}: pins are {query.pin_ids} here and {queries[0].pin_ids} in "
                    f"{queries[0].part.name}; say --pin-ids string"
                )
        digest = digest_of(wanted.source, wanted)
        if not _is_there(wanted, digest):
            refuse_existing(wanted.pins, request.mode == "replace")
        ids = pa.int64() if queries[0].pin_ids == INT64 else pa.string()
        return cls(connection, request, wanted, queries, VectorWriter(wanted.pins, ids), digest)

    @property
    def pin_ids(self) -> str:
        return self.queries[0].pin_ids

    def stage(self) -> dict[str, Any]:
        """Reads everything and writes it below `_import`; returns the report.

        Raises:
            InputError: no row is left, or too many were dropped.
        """
        if _is_there(self.wanted, self.digest):
            return {**(read_manifest(self.wanted.pins) or {}), "pins": self.wanted.pins, "already": True}
        self.writer.discard()
        counts, progress = Counts(), Progress(self.request.quiet)
        repeated = find_repeated(self.connection, self.queries)
        reader = VectorReader(self.connection, self.wanted.vectors, counts, repeated)
        for query in self.queries:
            for ids, vectors in reader.read(query):
                self.writer.add(ids, vectors)
                progress.say(counts)
        check_dropped(counts, self.request.max_dropped)
        if not self.writer.rows:
            raise InputError(f"{self.queries[0].part.name}: no vector is left to import")
        return {
            "digest": self.digest,
            "width": reader.width,
            "pin_ids": self.pin_ids,
            **counts_of(counts),
        }

    def commit(self, report: dict[str, Any]) -> dict[str, Any]:
        """Makes a vector set of what was staged."""
        if report.get("already"):
            return report
        version = self.writer.commit(self.wanted.version, report)
        return {**report, "pins": self.writer.folder, "pinsage_version": version}

    def close(self) -> None:
        """Removes what is staged."""
        self.writer.discard()


def _is_there(wanted: VectorsRequest, digest: str | None) -> bool:
    """Whether the folder holds what the same import, of the same files, has made."""
    return digest is not None and (read_manifest(wanted.pins) or {}).get("digest") == digest

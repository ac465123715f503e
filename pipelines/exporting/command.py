"""`pinnerformer export`: a release for others to read."""

import json
import os
import shutil
from collections.abc import Callable
from typing import Any

from pipelines.exporting.request import ExportRequest, make_parser, parse
from pipelines.operations.doing import Doing
from stores.errors import StoreError, UsageError
from stores.exports import KINDS, Export, write_duckdb, write_npy, write_parquet
from stores.files import Root
from stores.index_exports import WRITERS, parameters_of, write_keys
from stores.local_files import explain_os_errors, replace_atomically
from stores.manifests import Manifest, read_manifest
from stores.object_stores import is_url
from stores.releases import read_current

__all__ = ["main", "make_parser", "parse"]
FACTS = "export.json"  # written last: which release the files are of
STAGED = ".export"


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    root, doing = Root(request.root), Doing(not request.quiet)
    exports = [_open(root, _manifest(root, request), name) for name in request.kinds]
    if request.database is not None:
        from pipelines.exporting.databases import push  # loads Beam

        with doing.piece(f"fill {request.database.kind}"):
            report = push(exports, request.database)
    else:
        report = write_files(exports, request, doing)
    if request.as_json:
        print(json.dumps(report, indent=1))
    else:
        found = ", ".join(f"{report[name]['rows']:,} {name}" for name in request.kinds)
        print(f"{report['where']}: {found} of release {report['release']}, {report['dim']} numbers each")
    return 0


def _manifest(root: Root, request: ExportRequest) -> Manifest:
    manifest = read_manifest(root, request.release) if request.release else read_current(root)
    if manifest is None:
        raise StoreError(f"--root {root.url}: no release is committed there yet")
    return manifest


def _open(root: Root, manifest: Manifest, name: str) -> Export:
    kind = KINDS[name]
    if kind.table in manifest.dropped:
        raise StoreError(
            f"--root {root.url}: release {manifest.release} has given its {name} up to `pinnerformer gc`; name a newer "
            "one with --release"
        )
    export = Export(root, manifest, kind)
    if not export.rows:
        raise StoreError(f"--root {root.url}: release {manifest.release} has no {name}")
    return export


def facts_of(exports: list[Export]) -> dict[str, Any]:
    """What an export says of itself."""
    manifest = exports[0].manifest
    return {
        "release": manifest.release,
        "date": manifest.date,
        "model_digest": manifest.model_digest,
        "dim": exports[0].dim,
        **{
            export.kind.name: {"rows": export.rows, "ids": "string" if export.string_ids else "int64"}
            for export in exports
        },
    }


def write_files(exports: list[Export], request: ExportRequest, doing: Doing) -> dict[str, Any]:
    """Writes the files of an export; they are moved into place once all of them are whole.

    Raises:
        UsageError: the folder holds an export and nobody said that it may go, or something else; or an extra is
            missing.
    """
    out = _check_out(request.out or "", request.replace)
    staged = os.path.join(out, STAGED)
    shutil.rmtree(staged, ignore_errors=True)
    with explain_os_errors(out):
        os.makedirs(staged)
        try:
            with doing.piece(f"write {' and '.join(request.kinds)} as {request.format}"):
                _WRITE.get(request.format, _write_index)(exports, staged, request.format)
            names = sorted(os.listdir(staged))
            # Without its facts a folder is no export: at no moment do they name a release whose files are not there.
            for name in [FACTS, *_files_of(out)]:
                if os.path.exists(os.path.join(out, name)):
                    os.unlink(os.path.join(out, name))
            for name in names:
                os.replace(os.path.join(staged, name), os.path.join(out, name))
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    report = {**facts_of(exports), "format": request.format, "files": names}
    with replace_atomically(os.path.join(out, FACTS)) as path, open(path, "w") as file:
        json.dump(report, file, indent=1)
    return {**report, "where": out}


def _check_out(out: str, replace: bool) -> str:
    if is_url(out):
        raise UsageError(f"--out {out}: files are written to a local folder; copy it there afterwards")
    out = os.path.abspath(out)
    names = [name for name in os.listdir(out) if name != STAGED] if os.path.isdir(out) else []
    known = [FACTS, *_files_of(out)]
    foreign = sorted(set(names) - set(known))
    if foreign:
        raise UsageError(f"--out {out}: {foreign[0]} in it is not an export's; name a new folder")
    if names and not replace:
        raise UsageError(f"--out {out}: an export is there; --replace puts this one in its place")
    return out


def _files_of(out: str) -> list[str]:
    """The files that exports write, of whatever format."""
    return [
        "embeddings.duckdb",
        *(f"{name}.{suffix}" for name in KINDS for suffix in ("parquet", "npy", "keys.parquet", *WRITERS)),
        *(f"{KINDS[name].column}s.npy" for name in KINDS),
    ]


def _write_parquet(exports: list[Export], folder: str, _: str) -> None:
    for export in exports:
        write_parquet(export, os.path.join(folder, f"{export.kind.name}.parquet"))


def _write_npy(exports: list[Export], folder: str, _: str) -> None:
    for export in exports:
        write_npy(
            export,
            os.path.join(folder, f"{export.kind.name}.npy"),
            os.path.join(folder, f"{export.kind.column}s.npy"),
        )


def _write_duckdb(exports: list[Export], folder: str, _: str) -> None:
    write_duckdb(exports, os.path.join(folder, "embeddings.duckdb"))


def _write_index(exports: list[Export], folder: str, name: str) -> None:
    (export,) = exports
    WRITERS[name](export, os.path.join(folder, f"{export.kind.name}.{name}"), parameters_of(export))
    if export.string_ids:
        write_keys(export, os.path.join(folder, f"{export.kind.name}.keys.parquet"))


_WRITE: dict[str, Callable[[list[Export], str, str], None]] = {
    "parquet": _write_parquet,
    "npy": _write_npy,
    "duckdb": _write_duckdb,
}

"""`pinnerformer report`: writes the page of a release, or of a run that was refused."""

import dataclasses
import os

from pipelines.arguments import Parser, add_root
from pipelines.report.write import report_release, report_run
from stores.errors import StoreError, UsageError
from stores.files import Root
from stores.layout import require_layout
from stores.local_files import replace_atomically
from stores.releases import current_release
from stores.reports import report_path

DESCRIPTION = """\
Writes the page that says how a release, or a refused run, came out: what came in and what was dropped, every figure
beside the last 30 releases, every gate beside its limit, how well the vectors before foresaw this day, seconds of work.
One HTML file that needs no network. `daily`, `backfill` and `repair` write it themselves, to
ROOT/releases/RELEASE/report.html, or to ROOT/staging/RUN/report.html where a gate closed; this writes it again, and
those of releases of older versions.
"""

EPILOG = """\
example:
  pinnerformer report --root ROOT --release 2026-11-23 --out monday.html
"""


@dataclasses.dataclass(frozen=True)
class ReportRequest:
    """What `pinnerformer report` is asked for.

    Attributes:
        release: None: CURRENT.
        run: A run's name instead of a release.
        names: A Parquet file that says what pins are called; None: they are not named.
        out: A local file; None: where the jobs write it.
    """

    root: Root
    release: str | None
    run: str | None
    names: str | None
    out: str | None


def make_parser() -> Parser:
    """The flags of `pinnerformer report`."""
    parser = Parser(prog="pinnerformer report", description=DESCRIPTION, epilog=EPILOG)
    add_root(parser)
    parser.add_argument("--release", metavar="ID", help="which one (default CURRENT)")
    parser.add_argument("--run", metavar="NAME", help="a folder name under ROOT/staging, of a run that a gate refused")
    parser.add_argument("--names", metavar="FILE", help="what pins are called: Parquet with columns pin_id and name")
    parser.add_argument("--out", metavar="FILE", help="a local file (default report.html beside the manifest)")
    return parser


def parse(argv: list[str]) -> ReportRequest:
    """Reads the flags of `pinnerformer report`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    if found.release and found.run:
        raise UsageError("--release and --run: one of them; a run that was released is found by its release")
    return ReportRequest(Root(found.root), found.release, found.run, found.names, found.out)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    root = request.root
    require_layout(root)
    if request.run:
        path, page = report_run(root, request.run, names=request.names)
    else:
        release = request.release or current_release(root)
        if release is None:
            raise StoreError(f"--root {root.url}: no release in it")
        path, page = report_path(release), report_release(root, release, names=request.names)
    if request.out is None:
        root.write_bytes(path, page.encode())
        print(root.path(path))
        return 0
    with (
        replace_atomically(os.path.abspath(request.out)) as temporary,
        open(temporary, "w", encoding="utf-8") as file,
    ):
        file.write(page)
    print(request.out)
    return 0

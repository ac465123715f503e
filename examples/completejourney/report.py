"""The demo's page: the report of its last release, and what that release gives households."""

import dataclasses
import os
from collections.abc import Sequence

from pipelines.report.write import report_release
from stores.files import Root
from stores.local_files import replace_atomically

TEMPLATE = "demo.html.j2"


@dataclasses.dataclass(frozen=True)
class Household:
    """What one household did, and what it is given.

    Attributes:
        bought: Day, name, action, surface of its last purchases, newest first.
        retrieved: Score and name, best first.
    """

    user: int
    bought: Sequence[tuple[str, str, str, str]]
    retrieved: Sequence[tuple[float, str]]


@dataclasses.dataclass(frozen=True)
class Shown:
    """What the demo's page says beside the report.

    Attributes:
        columns: What the cells of `measured` are.
        measured: A row for every way to recommend.
        kept: Which weights were kept.
        asked: Of whom the figures are.
        served: How much alike the answers are.
    """

    households: Sequence[Household]
    columns: Sequence[str]
    measured: Sequence[Sequence[str]]
    kept: str
    asked: str
    served: str


def write_report(path: str, root: Root, release: str, names: str, shown: Shown) -> None:
    """Writes the page.

    Args:
        names: What products are called, as `pinnerformer report --names` takes it.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    page = report_release(root, release, names=names, template=TEMPLATE, folder=folder, more={"demo": shown})
    with replace_atomically(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(page)

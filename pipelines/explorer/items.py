"""Pins as a catalogue describes them: a name, a picture, a link. Nothing of it is trusted."""

import dataclasses
import urllib.parse
import zlib
from collections.abc import Collection
from typing import Any

import numpy as np

from pipelines.explorer.views import View, ids_shown
from pipelines.serving.catalogue import Catalogue
from stores.id_names import PINS, Id

NAME, IMAGE, URL, TOPIC = "name", "image", "url", "topic"
HUES = 8  # of the tiles that stand where there is no picture
LONGEST = 2000  # letters of an address


@dataclasses.dataclass(frozen=True)
class Item:
    """A pin as it is shown.

    Attributes:
        id: As the logs have it.
        name: What it is called; its id where nobody says.
        image: An address on a host that is allowed; empty: a tile is shown.
        url: Of its page, https or http; empty: none.
        tile: Up to two letters for a tile.
        hue: Which colour a tile has.
        more: Further columns of the catalogue, as text.
    """

    id: Id
    name: str
    image: str = ""
    url: str = ""
    topic: str = ""
    tile: str = ""
    hue: int = 0
    more: tuple[tuple[str, str], ...] = ()


def host_is_allowed(address: str, hosts: Collection[str]) -> bool:
    """Whether a picture may be loaded from where an address leads; `hosts` as `--image-host` names them."""
    try:
        parts = urllib.parse.urlsplit(address)
        origin = (parts.hostname or "").lower() + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return False
    # What the policy of the page says too: of others the browser loads nothing.
    return parts.scheme == "https" and origin in hosts and len(address) <= LONGEST and "@" not in parts.netloc


def safe_link(address: str) -> str:
    """An address that may be linked to; empty: none. `javascript:` and what is no address are not."""
    try:
        parts = urllib.parse.urlsplit(address.strip())
    except ValueError:
        return ""
    return address.strip() if parts.scheme in ("http", "https") and parts.netloc and len(address) <= LONGEST else ""


def _text(value: Any) -> str:
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def item_of(shown: Id, row: dict[str, Any] | None, hosts: Collection[str]) -> Item:
    """A pin and its row of the catalogue, if it has one."""
    row = row or {}
    name = _text(row.get(NAME)).strip() or f"pin {shown}"
    image, url = _text(row.get(IMAGE)).strip(), _text(row.get(URL))
    words = [word for word in name.split() if word[0].isalnum()] or [str(shown)]
    letters = (words[0][:1] + words[-1][:1] if len(words) > 1 else words[0][:2]).upper()
    known = {NAME, IMAGE, URL, "pin_id"}
    more = tuple((column, _text(value)) for column, value in row.items() if column not in known and value is not None)
    return Item(
        id=shown,
        name=name,
        image=image if host_is_allowed(image, hosts) else "",
        url=safe_link(url),
        topic=_text(row.get(TOPIC)),
        tile=letters,
        hue=zlib.crc32(_text(row.get(TOPIC) or shown).encode()) % HUES,
        more=more,
    )


def items_of(view: View, pins: np.ndarray, catalogue: Catalogue | None, hosts: Collection[str]) -> dict[int, Item]:
    """Pins of a release, int64 [P], by their inner ids.

    Raises:
        StoreError: a file of names is missing or damaged.
    """
    shown = ids_shown(view, PINS, pins)
    inner = np.array(list(shown), np.int64)
    of_same_kind = catalogue is not None and catalogue.kind == PINS.kind(view.manifest)
    rows = catalogue.rows_of(inner) if catalogue is not None and of_same_kind else [None] * len(inner)
    return {one: item_of(shown[one], row, hosts) for one, row in zip(inner.tolist(), rows, strict=True)}

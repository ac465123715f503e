"""What a user, a row and a pin have cost in the last releases, and what a night will."""

import dataclasses
import datetime
import itertools
import statistics
from typing import Any

from stores.files import Root
from stores.manifests import Manifest
from stores.names import Counter, Step
from stores.releases import chain
from transforms.gates.trends import WEEK

USER_STAGES = (Step.JOIN_VECTORS, Step.EMBED_USERS)
ROW_STAGES = (Step.READ_LOGS, Step.UPDATE_HISTORIES, Step.MERGE_SNAPSHOT)
PIN_STAGES = (Step.SHARD_PINS, Step.EMBED_PINS, Step.BUILD_INDEXES)
FINISH_SHARE = 0.05  # of a night that no release tells of: its checks, commit and publish

# Seconds a user, a row and a pin, of the preset `small` on one core of 2020 (docs/benchmarks.md); and log rows an
# active user. They only have to tell a night of seconds from one of minutes.
BEFORE = (0.012, 5e-6, 3e-4)
ROWS_A_USER = 3


def last_releases(root: Root, release: str | None) -> list[Manifest]:
    """The releases that rates are read off: a week of them from one backwards, newest first; none from None."""
    return list(itertools.islice(chain(root, release), WEEK)) if release else []


@dataclasses.dataclass(frozen=True)
class Rates:
    """Medians over the last releases; None where none tells.

    Attributes:
        active_per_row: Users embedded for each log row read.
        tokens_per_user: Tokens the model saw for each of them.
        user_s: Seconds of work per user, joined and embedded.
        row_s: Seconds of work per log row: read, merged into the histories and the snapshot.
        pin_s: Seconds of work per pin, changed or not: sorted, embedded, indexed.
    """

    active_per_row: float | None
    tokens_per_user: float | None
    user_s: float | None
    row_s: float | None
    pin_s: float | None

    @classmethod
    def of(cls, releases: list[Manifest]) -> "Rates":
        """Reads them off manifests, newest first."""

        def median(figure: Any) -> float | None:
            found = []
            for manifest in releases:
                users = manifest.count(Step.EMBED_USERS, Counter.USERS_EMBEDDED)
                rows = manifest.count(Step.READ_LOGS, Counter.ROWS_READ)
                # Those that stayed as they were too: what is made again of a night's pins is part of the rate.
                pins = sum(manifest.count(Step.EMBED_PINS, of) for of in (Counter.PINS_EMBEDDED, Counter.PINS_REUSED))
                above, below = figure(manifest, users, rows, pins)
                if below:
                    found.append(above / below)
            return statistics.median(found) if found else None

        def seconds(manifest: Manifest, steps: tuple[str, ...]) -> float:
            return sum(manifest.timings.get(step, 0.0) for step in steps)

        daily = [m for m in releases if m.previous is not None]
        return cls(
            active_per_row=cls.of_daily(daily),
            tokens_per_user=median(lambda m, users, rows, pins: (m.count(Step.EMBED_USERS, Counter.TOKENS), users)),
            user_s=median(lambda m, users, rows, pins: (seconds(m, USER_STAGES), users)),
            row_s=median(lambda m, users, rows, pins: (seconds(m, ROW_STAGES), rows)),
            pin_s=median(lambda m, users, rows, pins: (seconds(m, PIN_STAGES), pins)),
        )

    @staticmethod
    def of_daily(releases: list[Manifest]) -> float | None:
        found = []
        for manifest in releases:
            rows = manifest.count(Step.READ_LOGS, Counter.ROWS_READ)
            if rows:
                found.append(manifest.count(Step.UPDATE_HISTORIES, Counter.USERS_CHANGED) / rows)
        return statistics.median(found) if found else None

    @property
    def tell(self) -> bool:
        """Whether they say what a night costs."""
        return None not in (self.user_s, self.row_s, self.pin_s)

    def work_s(self, users: float | None, rows: int, pins: int) -> float:
        """Seconds of work that a night is likely to be, one after the other; where no release tells, of `BEFORE`.

        Args:
            users: To embed; None if nothing is known of them but the rows.
        """
        return sum(self._by_kind(users, rows, pins))

    def _by_kind(self, users: float | None, rows: int, pins: int) -> tuple[float, float, float]:
        """Of `work_s`: of users, of rows, of pins."""
        user_s, row_s, pin_s = (
            known if known is not None else default
            for known, default in zip((self.user_s, self.row_s, self.pin_s), BEFORE, strict=True)
        )
        return (rows / ROWS_A_USER if users is None else users) * user_s, rows * row_s, pins * pin_s

    def work_by_step(self, users: float | None, rows: int, pins: int, like: Manifest | None) -> dict[Step, float]:
        """What `work_s` adds up, by step, and beside it what comes after the steps, as that of `FINISH`.

        Args:
            like: The release before, by whose seconds the steps of a kind have their parts; None: in equal parts.
        """
        timings = like.timings if like else {}
        found: dict[Step, float] = {}
        kinds = (USER_STAGES, ROW_STAGES, PIN_STAGES)
        for steps, work_s in zip(kinds, self._by_kind(users, rows, pins), strict=True):
            parts = [timings.get(step, 0.0) for step in steps]
            whole = sum(parts)
            for step, part in zip(steps, parts, strict=True):
                found[step] = work_s * (part / whole if whole else 1 / len(steps))
        counted = {str(step) for steps in kinds for step in steps}
        after_s = sum(seconds for step, seconds in timings.items() if step not in counted)
        return {**found, Step.FINISH: after_s or FINISH_SHARE * sum(found.values())}


def users_to_embed(
    rates: Rates, date: datetime.date, rows: int, current: Manifest | None, *, everybody: bool, refresh_days: int
) -> float | None:
    """How many users a night will embed; None where nothing tells.

    Args:
        rows: Log rows that it reads.
        current: The release that it is built on; None for a first one.
        everybody: Whether no vector of that release stands.
        refresh_days: Within which everybody is embedded again; 0: not at all.
    """
    known = current.rows("user_embeddings") if current else 0
    users: float | None = known if everybody and current else None
    if not everybody and rates.active_per_row is not None:
        users = min(known + rows, rates.active_per_row * rows)
    if users is not None and not everybody and current and refresh_days:
        due = known * min(1.0, (date - current.day).days / refresh_days)
        users = min(known + rows, users + due)
    return users

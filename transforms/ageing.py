"""What grows old: rows leave the histories, idle users leave the snapshot, old vectors are made again."""

import dataclasses
import datetime

import numpy as np

from pinnerformer_model.days import DAY_MS, midnight_ms
from stores.ids import uniform_of

REFRESH_SALT = 3
EVER = -(1 << 63)


@dataclasses.dataclass(frozen=True)
class Ageing:
    """How long rows, users and vectors last, counted in UTC days up to a release's own; 0 is forever.

    Attributes:
        max_history_days: Rows of earlier days leave the histories; whose history they leave is embedded again.
        max_idle_days: Users without a row in so many days leave the snapshot. Their rows stay: they come back as soon
            as they act.
        refresh_days: No vector gets older: each user is embedded again on one day in so many, by a hash of the id.
    """

    max_history_days: int = 0
    max_idle_days: int = 0
    refresh_days: int = 0

    def oldest_row_ms(self, date: datetime.date) -> int:
        """The first moment of which a row may still be in the histories of a date's release."""
        return _first_ms(date, self.max_history_days)

    def oldest_action_ms(self, date: datetime.date) -> int:
        """The moment since which a user must have acted to be in the snapshot of a date's release."""
        return max(_first_ms(date, self.max_idle_days), self.oldest_row_ms(date))

    def describe(self, date: datetime.date) -> str:
        """What happens to rows and users at a date's release, for a person; "" if nothing does."""
        words = []
        if self.max_history_days:
            words.append(f"rows before {date - datetime.timedelta(self.max_history_days - 1)} leave the histories")
        if self.max_idle_days:
            words.append(
                f"users idle since before {date - datetime.timedelta(self.max_idle_days - 1)} leave the snapshot"
            )
        if self.refresh_days:
            words.append(f"everybody is embedded again within {self.refresh_days} days")
        return "; ".join(words)

    def is_due(self, user_ids: np.ndarray, after: datetime.date | None, date: datetime.date) -> np.ndarray:
        """Who is embedded again by age, whatever came in.

        Args:
            user_ids: int64 [N].
            after: The date of the release before: the days up to `date` that had no release are made up for. None
                where there is none: everybody is new.

        Returns:
            bool [N]; nobody on a date that is released again.
        """
        if not self.refresh_days or after is None:
            return np.zeros(len(user_ids), bool)
        # A hash spreads users evenly over the days; ids are often given in order of joining, and a modulo would follow
        # that.
        slot = (uniform_of(user_ids, REFRESH_SALT) * self.refresh_days).astype(np.int64)
        return (slot - after.toordinal() - 1) % self.refresh_days < (date - after).days


def _first_ms(date: datetime.date, days: int) -> int:
    """Midnight before the last `days` days that end with a date."""
    return midnight_ms(date) - (days - 1) * DAY_MS if days else EVER

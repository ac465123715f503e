"""What a command that is no night is at: lines on stderr, in the form of a night's, of each piece that lasts."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from pipelines.launch.stages import SILENT_S, duration
from pipelines.telemetry.lines import say

QUIET = "say nothing on stderr while it works"  # what `--quiet` of such a command does: its summary is its answer
LASTS_S = 2.0  # shorter pieces are not spoken of: most roots are looked at in less


class Doing:
    """Says how a command gets on.

    Args:
        shown: Say nothing if false.
    """

    def __init__(self, shown: bool):
        self._shown, self._began = shown, time.perf_counter()

    @contextlib.contextmanager
    def piece(self, words: str) -> Iterator[None]:
        """A piece of the work, while the block runs: `words` say of what, as in "read logs".

        Lines come when it has lasted `LASTS_S`, every `stages.SILENT_S` from then on, and at its end.
        """
        if not self._shown:
            yield
            return
        ended, began = threading.Event(), time.perf_counter()

        def watch() -> None:
            if ended.wait(LASTS_S):
                return
            self._say(words)
            while not ended.wait(SILENT_S):
                self._say(words)

        thread = threading.Thread(target=watch, name="doing", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        took_s = time.perf_counter() - began
        if took_s >= LASTS_S:
            self._say(f"{words}: done in {duration(took_s)}", seconds=round(took_s, 1), done=True)

    def _say(self, text: str, **figures: Any) -> None:
        elapsed_s = time.perf_counter() - self._began
        say(f"[{elapsed_s:6.0f} s] {text}", elapsed_s=round(elapsed_s, 1), **figures)

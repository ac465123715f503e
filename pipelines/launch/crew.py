"""How many worker processes a job has on this machine, and why."""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.arguments import Flags, positive
from pipelines.launch.beam_options import is_local
from stores.errors import UsageError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

# A worker has to have so many seconds of work of its own: starting it, handing bundles over and waiting for the slowest
# take less than one (docs/benchmarks.md).
PAYS_FROM_S = 3.0
BEAMS_OWN = ("--direct_num_workers", "--direct_running_mode")


@dataclasses.dataclass(frozen=True)
class WorkersWish:
    """What the flags say of workers.

    Attributes:
        count: As `--workers` says; None: as many as pay.
        beam_decides: Whether Beam's own flags say how many and of what kind, or an engine does.
    """

    count: int | None = None
    beam_decides: bool = False


@dataclasses.dataclass(frozen=True)
class Crew:
    """Worker processes of a job.

    Attributes:
        count: How many; 1 is this process itself, 0: Beam's flags or an engine decide.
        why: In words.
    """

    count: int
    why: str

    def describe(self) -> str:
        """Both, in words."""
        return f"{self.count:,} worker{'s'[: self.count > 1]}: {self.why}" if self.count else self.why


def add_workers(flags: Flags) -> None:
    """Adds `--workers`."""
    text = "worker processes on this machine, one thread each (default as many as pay for the work at hand)"
    flags.add_argument("--workers", type=positive, metavar="N", help=text)


def workers_wish(found: argparse.Namespace, beam: "PipelineOptions", rest: Sequence[str]) -> WorkersWish:
    """What the flags say of workers.

    Args:
        rest: The words of the command line that are Beam's.

    Raises:
        UsageError: `--workers`, and somebody else decides.
    """
    named = [flag for flag in BEAMS_OWN if any(word.partition("=")[0] == flag for word in rest)]
    decides = named or ([] if is_local(beam) else ["--runner"])
    if found.workers is not None and decides:
        raise UsageError(
            f"--workers and {decides[0]}: both say how many work; leave one of them out"
            + ("" if named else " (an engine has an option of its own, such as --parallelism)")
        )
    return WorkersWish(found.workers, bool(decides))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_crew(wish: WorkersWish, work_s: float, parts: int, device: str, *, known: bool = True) -> Crew:
    """As many workers as the flags say, or as pay.

    Args:
        work_s: Seconds that the work is likely to take, one after the other.
        parts: Into which it falls: more workers than that are idle.
        device: `cpu` or `cuda`.
        known: Whether releases tell of the work; else it is a guess, which nobody is shown.
    """
    if wish.beam_decides:
        return Crew(0, "as many as Beam's flags or the engine say")
    if wish.count is not None:
        return Crew(wish.count, "as --workers says")
    if device != "cpu":
        return Crew(1, f"--device {device}: each would hold a model there; --workers N for more")
    most = min(cores(), parts)
    count = max(1, min(most, int(work_s / PAYS_FROM_S)))
    about = f"about {work_s:,.0f} s of work" if known else "work guessed by rows and pins, as no release tells yet"
    if count == most:
        return Crew(count, f"{about}; {cores():,} core{'s'[: cores() != 1]}, {parts:,} part{'s'[: parts != 1]}")
    return Crew(count, f"{about}: more would not pay")

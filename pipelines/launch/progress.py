"""Shows how far a run is: bars on a terminal; elsewhere a line for every stage that is done."""

import os
import sys
import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from pipelines.launch.stages import SILENT_S, ProgressLog, Stage, Work, duration, seconds_left, stages_of
from pipelines.telemetry.lines import say
from stores.names import Step
from transforms.run import RunFolder

LOOK_EVERY_S = 0.3
ALL = "in all"


class Progress:
    """Watches a run while the body of the `with` runs.

    Args:
        run: What to watch.
        work: What is known of it.
        shown: Show nothing if false.
        silent_s: The longest silence, where stderr is no terminal.
    """

    def __init__(self, run: RunFolder, work: Work, *, shown: bool = True, silent_s: float = SILENT_S):
        self._run = run
        self._work = work
        self._shown = shown
        self._silent_s = silent_s
        self._stop = threading.Event()
        self._failed = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Progress":
        folder = self._run.progress_folder
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            os.unlink(os.path.join(folder, name))
        if self._shown:
            self._log = ProgressLog(folder)
            self._started = time.perf_counter()
            target = self._draw if sys.stderr.isatty() else self._print
            self._thread = threading.Thread(target=target, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._failed = kind is not None
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _look(self) -> tuple[bool, list[Stage], float]:
        """Waits a little; whether the run is over, its stages, and the seconds since its start."""
        over = self._stop.wait(LOOK_EVERY_S)
        self._log.update()
        stages = stages_of(self._log, self._work, ended=over and not self._failed)
        return over, stages, time.perf_counter() - self._started

    def _draw(self) -> None:
        bars = Bars(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TextColumn("{task.fields[done]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True),
            # The run puts another `sys.stderr` in place and closes it: the bars, in a thread, would put that one back.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        shown: dict[str, TaskID] = {}
        with bars:
            over = False
            while not over:
                over, stages, elapsed_s = self._look()
                for stage in stages:
                    if stage.step not in shown:
                        shown[stage.step] = bars.add_task(stage.label, total=None, done="", left="")
                    self._draw_stage(bars, shown[stage.step], stage)
                left = seconds_left(stages, self._work, elapsed_s)
                if left is not None and len(stages) > 1 and ALL not in shown:
                    shown[ALL] = bars.add_task(ALL, total=1.0, done="", left="")
                if ALL in shown:
                    share, text = left or (0.0, 0.0)
                    whole = over and not self._failed
                    bars.update(
                        shown[ALL],
                        completed=1.0 if whole else min(share, 0.99),
                        left="" if over else f"about {duration(text)} left",
                    )

    def _draw_stage(self, bars: Bars, task: TaskID, stage: Stage) -> None:
        # A bar without a total pulses: of a stage that is done, whatever it has done is all there was.
        total = 1.0 if stage.done or stage.share is not None else None
        bars.update(task, total=total, completed=1.0 if stage.done else stage.share or 0.0, done=stage.counted)

    def _print(self) -> None:
        began: dict[Step, float] = {}
        done: set[Step] = set()
        said_s, over = 0.0, False
        while not over:
            over, stages, elapsed_s = self._look()
            left = seconds_left(stages, self._work, elapsed_s)
            for stage in stages:
                began.setdefault(stage.step, max(0.0, elapsed_s - LOOK_EVERY_S))
                if stage.done and stage.step not in done:
                    done.add(stage.step)
                    took_s, said_s = elapsed_s - began[stage.step], elapsed_s
                    text = f"{stage.label}: {stage.counted} in {duration(took_s)}"
                    self._say(text, elapsed_s, None if over else left, stage, seconds=round(took_s, 1))
            if not over and elapsed_s - said_s >= self._silent_s:
                said_s = elapsed_s
                at_work = [stage for stage in stages if not stage.done]
                words = [f"{stage.label} {stage.counted}" for stage in at_work]
                text = "; ".join(words) or "no worker of this machine is at a stage"
                self._say(text, elapsed_s, left, at_work[-1] if at_work else None)

    def _say(
        self, text: str, elapsed_s: float, left: tuple[float, float] | None, stage: Stage | None, **more: Any
    ) -> None:
        rest = f"; about {duration(left[1])} left" if left else ""
        figures: dict[str, Any] = {"elapsed_s": round(elapsed_s, 1), "left_s": round(left[1], 1) if left else None}
        of_stage = {"units": stage.units, "done": stage.done} if stage else {}
        name = str(stage.step) if stage else None
        say(f"[{elapsed_s:6.0f} s] {text}{rest}", stage=name, **figures, **of_stage, **more)

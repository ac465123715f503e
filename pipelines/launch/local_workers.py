"""The worker processes of one job on this machine, from before it is planned to its end."""

import contextlib
from collections.abc import Iterator

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines.launch.crew import Crew, WorkersWish, choose_crew
from pipelines.launch.forked_workers import runner_of
from pipelines.launch.worker_template import WorkerTemplate, why_not_forked
from transforms.model import ModelReference


class LocalWorkers:
    """Workers that a job may have; made before the job opens anything, since they are forks.

    Attributes:
        crew: How many, once `settle` has said so.
    """

    def __init__(self, wish: WorkersWish, running: contextlib.ExitStack):
        """
        Args:
            running: Ends with the job, and ends the template.
        """
        self._wish = wish
        self._running = running
        self._template: WorkerTemplate | None = None
        self.crew = Crew(0, "")

    def fork_template(self) -> None:
        """Makes the template now if it may be wanted and this process may still be forked; it costs milliseconds."""
        if not self._wish.beam_decides and self._wish.count != 1 and why_not_forked() is None:
            self._template = self._running.enter_context(WorkerTemplate())

    def settle(self, work_s: float, parts: int, model: ModelReference | None, *, known: bool) -> Crew:
        """Says how many there are, and has the template read the model that all of them need, if they need one.

        Args:
            work_s: Seconds that the work is likely to take, one after the other.
            parts: Into which it falls.
            known: As `choose_crew` takes it.
        """
        self.crew = choose_crew(self._wish, work_s, parts, model.device if model else "cpu", known=known)
        if self.crew.count > 1:
            self._template = self._template or self._running.enter_context(WorkerTemplate())
            if model:
                self._template.load(model)
        return self.crew

    def runner(self, options: PipelineOptions) -> FnApiRunner | None:
        """The runner that has these workers, whose number goes into Beam's options; None: as the options say."""
        if self.crew.count <= 1 or self._template is None:
            return None
        options.view_as(DirectOptions).direct_num_workers = self.crew.count
        return runner_of(self._template)


@contextlib.contextmanager
def local_workers(wish: WorkersWish) -> Iterator[LocalWorkers]:
    """The workers of a job, as long as the body runs."""
    with contextlib.ExitStack() as running:
        workers = LocalWorkers(wish, running)
        workers.fork_template()
        yield workers

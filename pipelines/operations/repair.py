"""`pinnerformer repair`: after a bad input was corrected, makes everything again for the users whom it touched."""

import sys
import time

import apache_beam as beam

from pipelines.daily_inference import define_pipeline
from pipelines.launch.daily_launch import execute
from pipelines.launch.local_workers import LocalWorkers, local_workers
from pipelines.operations.outcomes import open_target, raise_for_outcome
from pipelines.operations.summary import print_summary
from pipelines.planning.daily_plan import DailyPlan, read_job_inputs
from pipelines.planning.repair_plan import plan_repair
from pipelines.planning.repair_request import RepairRequest, parse
from stores.lease import hold_lease
from stores.releases import refuse_held


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    with local_workers(request.job.workers) as workers:  # before a store or a lease is there: workers are forks
        return repair(request, workers)


def repair(request: RepairRequest, workers: LocalWorkers) -> int:
    """Makes it again, with the workers that the job may have; returns the exit code."""
    job, target = request.job, request.target
    open_target(target)
    started, root = time.perf_counter(), job.root

    def define(pipeline: beam.Pipeline, plan: DailyPlan) -> None:
        define_pipeline(pipeline, plan, target)

    with hold_lease(root, "repair") as lease:
        refuse_held(root)
        plan = plan_repair(job, read_job_inputs(job), request.users, request.partitions)
        outcome = execute(plan, define, lease, job.beam, workers, target, shown=not job.quiet)
    outcome = raise_for_outcome(root, plan.run.name, outcome)
    if not job.quiet:
        print_summary(root, outcome, seconds=time.perf_counter() - started, file=sys.stderr)
    return 0

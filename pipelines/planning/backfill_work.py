"""How much work a backfill is likely to be, and how it falls into steps."""

from pipelines.launch.stages import Work
from pipelines.planning.backfill_plan import BackfillPlan, estimate
from pipelines.planning.rates import PIN_STAGES, ROW_STAGES, USER_STAGES, Rates
from stores.names import Step
from transforms.resume import CompletedPins


def work_of(plan: BackfillPlan) -> tuple[float, bool]:
    """Seconds of work that a plan is likely to be, one after the other; whether releases tell."""
    rates = Rates.of(plan.before)
    return rates.work_s(None, estimate(plan).rows, plan.given.vectors.rows), rates.tell


def work_left(plan: BackfillPlan, days: int, rows: int, bucket_days: int, pins_done: CompletedPins) -> Work:
    """What is to be done of a pass that an earlier attempt has not done.

    Args:
        days: Of the pass.
        rows: Of its logs.
        bucket_days: Buckets times days that are left.
    """
    pins, shards = plan.given.vectors.rows, plan.layout.pin_shards
    rates = Rates.of(plan.before)
    seconds = rates.work_by_step(None, rows, pins, plan.before[0]) if rates.tell else {}
    users = sum(of for step, of in seconds.items() if step in (*USER_STAGES, *ROW_STAGES) and step != Step.READ_LOGS)
    tasks = {
        **dict.fromkeys((Step.REPLAY_BUCKETS, Step.UPDATE_HISTORIES, Step.MERGE_SNAPSHOT), bucket_days),
        Step.SHARD_PINS: shards - len(pins_done.tables),
        Step.EMBED_PINS: shards - len(pins_done.pins),
        Step.BUILD_INDEXES: shards - len(pins_done.indexes),
        Step.FINISH: days,
    }
    units = {step: pins for step in PIN_STAGES if tasks[step] == shards}
    units |= {Step.READ_LOGS: rows, Step.REPLAY_BUCKETS: bucket_days, Step.FINISH: days}
    # A replayed bucket has gone through all of the users' steps.
    own = (Step.READ_LOGS, *PIN_STAGES, Step.FINISH)
    of_steps = {step: of for step, of in seconds.items() if step in own and tasks.get(step, 1)}
    return Work(units, tasks, {**of_steps, Step.REPLAY_BUCKETS: users}, interleaved=True)

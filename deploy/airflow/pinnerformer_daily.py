"""The nightly job as an Airflow DAG: copy this file into your DAG folder; it imports none of ours.

Run with Airflow 3.0.6 and 3.3.2 (`make test-airflow`); 2 will not do.

The scheduler's environment says where everything is:

  PINNERFORMER_ROOT, _LOGS, _PINS, _MODEL    paths or s3://, gs:// URLs
  PINNERFORMER_KV                            e.g. redis://kv.internal:6379/0, or env:NAME; unset: commit only
  PINNERFORMER_BOOTSTRAP_FROM                the first day of logs; read only while the root is empty
  PINNERFORMER_FIRST                         a line for a shell before the night, with $DATE and $UNTIL (the day after):
                                             pinnerformer item-vectors --fold-in P/now --logs L --until $UNTIL --out
                                             P/$DATE && ln -sfn $DATE P/now; if it fails, the night runs all the same
  PINNERFORMER_COMMAND                       default: pinnerformer
  PINNERFORMER_FLAGS                         further ones, e.g. of the engine: --runner=PortableRunner ...

The logical date is the day of logs. A night is one task; what it says is in the task's log. A release that a gate
refused fails the task at once: trying again would give the same answer, and what was served before is still served.
"""

import datetime
import json
import os
import shlex
import subprocess

from airflow.sdk import ObjectStoragePath, dag, task
from airflow.timetables.interval import CronDataIntervalTimetable

try:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException
except ImportError:  # before Airflow 3.2
    from airflow.exceptions import AirflowException, AirflowFailException

BACKFILL_FROM = 2  # days behind: a night was missed, and `backfill` makes its release too


def setting(name: str, default: str = "") -> str:
    return os.environ.get(f"PINNERFORMER_{name}", default)


def command(name: str, *flags: str) -> list[str]:
    """A command line of ours."""
    return [*shlex.split(setting("COMMAND", "pinnerformer")), name, f"--root={setting('ROOT')}", *flags]


def newest_release() -> datetime.date | None:
    """The day that the root is at; None if it has no release."""
    if not (ObjectStoragePath(setting("ROOT")) / "CURRENT").exists():
        return None
    done = subprocess.run(command("status", "--json"), capture_output=True, text=True)
    if done.returncode:
        raise AirflowException(done.stderr.strip())
    releases = json.loads(done.stdout)["releases"]
    return max((datetime.date.fromisoformat(release["date"]) for release in releases), default=None)


def night(date: datetime.date) -> list[str]:
    """The command that brings the root to a date."""
    inputs = [f"--{name}={setting(name.upper())}" for name in ("logs", "pins", "model")]
    store = setting("KV")
    flags = [*inputs, f"--kv={store}" if store else "--publish=none", *shlex.split(setting("FLAGS"))]
    newest = newest_release()
    if newest is None:
        return command("daily", f"--date={date}", f"--bootstrap-from={setting('BOOTSTRAP_FROM')}", *flags)
    if (date - newest).days >= BACKFILL_FROM:
        return command("backfill", f"--start={newest + datetime.timedelta(1)}", f"--end={date}", *flags)
    return command("daily", f"--date={date}", *flags)


@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    catchup=False,  # a night reads what was missed before it
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": datetime.timedelta(minutes=10)},
    tags=["pinnerformer"],
)
def pinnerformer_daily():
    @task.sensor(poke_interval=300, timeout=6 * 3600, mode="reschedule")
    def logs_are_complete(logical_date=None) -> bool:
        """Waits for the day's _SUCCESS."""
        day = f"ds={logical_date.date()}"
        return (ObjectStoragePath(setting("LOGS")) / day / "_SUCCESS").exists()

    @task
    def release(logical_date=None) -> None:
        """Runs the night."""
        date = logical_date.date()
        days = {"DATE": str(date), "UNTIL": str(date + datetime.timedelta(1))}
        subprocess.run(["sh", "-c", setting("FIRST")], env={**os.environ, **days})
        words = night(date)
        print("+", shlex.join(words), flush=True)
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(done.stdout, flush=True)
        last = done.stdout.strip().splitlines()[-1:] or ["no message"]
        if done.returncode == 3:
            raise AirflowFailException(f"refused by a gate: {last[0]}")
        if done.returncode == 2:
            raise AirflowFailException(last[0])
        if done.returncode:
            raise AirflowException(last[0])

    logs_are_complete() >> release()


nightly = pinnerformer_daily()

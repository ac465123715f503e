"""Flags end at the door: every command makes one frozen request of them."""

import argparse
import dataclasses
import datetime
import importlib
from typing import Any

import pytest

from pipelines.cli import COMMANDS
from pipelines.launch.beam_options import is_local
from pipelines.operations import release, repair, rollback
from pipelines.planning import backfill_request, daily_request
from stores.errors import UsageError
from stores.files import Root
from stores.indexes import IndexParameters
from stores.partitions import PartitionDays
from transforms.ageing import Ageing
from transforms.gates import Thresholds
from transforms.release import PublishTarget

LOGS = ["--root=/root", "--logs=/logs", "--pins=/pins", "--model=/model"]
NIGHT = [*LOGS, "--date=2026-11-24"]
KV = "--kv=lmdb:///kv"
FLAGS = {
    "daily": [*NIGHT, KV],
    "plan": NIGHT,
    "check-inputs": NIGHT,
    "backfill": [*LOGS, KV, "--start=2026-11-01", "--end=2026-11-24"],
    "repair": [*LOGS, KV, "--partition=2026-11-21"],
    "report": ["--root=/root"],
    "release": ["--root=/root", "--run=a-run", KV],
    "status": ["--root=/root"],
    "rollback": ["--root=/root", KV],
    "verify": ["--root=/root"],
    "gc": ["--root=/root"],
    "rebucket": ["--root=/root", "--out=/out", "--user-buckets=8"],
    "erase": ["--root=/root", "--users=/users"],
    "init-model": ["--logs=/world/logs", "--out=/out"],
    "training-data": ["--logs=/logs", "--pins=/pins", "--out=/out", "--start=2026-11-01", "--end=2026-11-24"],
    "item-vectors": ["--logs=/logs", "--out=/pins", "--until=2026-11-24"],
    "train": ["--timelines=/timelines", "--out=/out"],
    "evaluate": ["--timelines=/timelines"],
    "study": ["--timelines=/timelines", "--out=/out"],
    "export": ["--root=/root", "--out=/out"],
    "import": ["--events=/a.csv", "--logs=/logs", "--vectors=/b.parquet", "--pins=/pins", "--absent=surface"],
    "retrieve": ["--root=/root", KV, "--user=3"],
    "synth": ["--out=/out", "--users=3", "--pins=4", "--start=2026-11-01", "--days=2"],
    "serve": ["--root=/root", KV],
    "worker-pool": [],
    "init": [],
    "config": [],
    "completion": ["bash"],
}


def door(command: str) -> Any:
    """The module that reads a command's flags."""
    return daily_request if command == "daily" else importlib.import_module(COMMANDS[command][0])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_request_is_frozen_and_holds_no_namespace(command):
    request = door(command).parse(FLAGS[command])
    pending = [request]
    while pending:
        value = pending.pop()
        assert not isinstance(value, argparse.Namespace)
        if dataclasses.is_dataclass(value):
            assert value.__dataclass_params__.frozen, value  # type: ignore[attr-defined]
            pending += [getattr(value, field.name) for field in dataclasses.fields(value)]
    assert dataclasses.is_dataclass(request)


def test_daily_and_plan_read_the_same_flags_alike():
    flags = [
        *NIGHT,
        *("--bootstrap-from=2026-11-01", "--user-buckets=8", "--column=pin_id=item", "--min-age=90s", "--lookback=3"),
        *("--refresh-days=30", "--embed-ram=16GB", "--index-m=8", "--join=shuffle", "--broadcast-limit=2", "--quiet"),
        "--direct_num_workers=2",
    ]
    daily = daily_request.parse([*flags, KV, "--namespace=shop"])
    assert (daily.target, daily.detach) == (PublishTarget("lmdb:///kv", "shop"), False)
    night, job = daily.night, daily.night.job
    assert (night.date, night.bootstrap_from) == (datetime.date(2026, 11, 24), datetime.date(2026, 11, 1))
    assert (night.join, night.broadcast_limit_gib) == ("shuffle", 2)
    assert (job.root, job.logs, job.pins, job.model) == (Root("/root"), "/logs", "/pins", "/model")
    assert (job.columns.theirs("pin_id"), job.lookback, job.min_age_s) == ("item", 3, 90.0)
    assert job.requested_layout == {"user_buckets": 8} and job.embed_on == {"min_ram": "16GB"}
    assert (job.ageing, job.index) == (Ageing(refresh_days=30), IndexParameters(8, 100))
    assert (job.device, job.token_budget, job.thresholds, job.quiet) == ("cpu", 1024, Thresholds(), True)
    assert is_local(job.beam) and job.beam.get_all_options()["direct_num_workers"] == 2
    planned = door("plan").parse(flags).night  # where to publish does not matter to it
    beam = planned.job.beam.get_all_options()
    assert beam == job.beam.get_all_options()
    assert dataclasses.replace(planned, job=dataclasses.replace(planned.job, beam=job.beam)) == night


def test_what_the_logs_are_is_said_alike_to_every_job_on_them():
    flags = ["--day-offset=-8h", "--max-clock-skew=90"]
    days = PartitionDays(max_clock_skew_s=90, day_offset_s=-8 * 3600)
    for command in ("backfill", "repair"):
        assert door(command).parse([*FLAGS[command], *flags]).job.days == days
        assert door(command).parse(FLAGS[command]).job.days == PartitionDays()
    assert daily_request.parse([*FLAGS["daily"], *flags]).night.job.days == days
    assert door("plan").parse([*NIGHT, *flags]).night.job.days == days
    assert door("training-data").parse([*FLAGS["training-data"], *flags]).days == days


def test_logs_that_were_rewritten_are_refused_unless_the_flag_says_otherwise():
    words = [[], ["--rewritten-partitions=refuse"], ["--rewritten-partitions=repair"]]
    assert [door("plan").parse([*NIGHT, *more]).night.repair_rewritten for more in words] == [False, False, True]
    dates = ["--partition=2026-11-21", "--partition=2026-11-20", "--partition=2026-11-21"]
    request = repair.parse([*LOGS, KV, *dates])
    assert request.partitions == (datetime.date(2026, 11, 20), datetime.date(2026, 11, 21)) and request.users is None
    for command in ("status", "verify"):
        request = door(command).parse([*FLAGS[command], "--logs=/logs", "--lookback=3"])
        assert (request.logs, request.lookback) == ("/logs", 3)


def test_where_to_publish_is_said_or_refused_at_the_door():
    for parse, flags in (
        (daily_request.parse, NIGHT),
        (backfill_request.parse, [*LOGS, "--start=2026-11-01", "--end=2026-11-02"]),
        (repair.parse, [*LOGS, "--users=/users"]),
        (release.parse, ["--root=/root", "--run=a-run"]),
        (rollback.parse, ["--root=/root"]),
    ):
        with pytest.raises(UsageError, match="--kv is missing: say where to publish, or --publish none"):
            parse(flags)
        assert parse([*flags, "--publish=none"]).target is None
        assert parse([*flags, KV]).target == PublishTarget("lmdb:///kv", "pinnerformer")


def test_a_backfill_that_only_says_what_it_would_do_needs_no_store():
    flags = [*LOGS, "--start=2026-11-01", "--end=2026-11-24", "--dry-run"]
    missing = ["--allow-missing=2026-11-09", "--allow-missing=2026-11-03", "--allow-missing=2026-11-09"]
    request = backfill_request.parse([*flags, *missing])
    assert (request.target, request.publish, request.dry_run) == (None, True, True)
    assert request.allowed_missing == (datetime.date(2026, 11, 3), datetime.date(2026, 11, 9))
    assert (request.memory_gib, request.days_per_pass, request.snapshots) == (None, None, "every-day")


def test_a_gate_is_forced_with_a_reason_for_it():
    flags = ["--root=/root", "--run=a-run", "--publish=none"]
    forced = release.parse([*flags, "--force-gate=a", "--force-gate=b", "--reason= holiday "])
    assert forced.forced == {"a": "holiday", "b": "holiday"} and forced.thresholds is None
    for more in (["--force-gate=a"], ["--reason=x"], ["--force-gate=a", "--reason= "]):
        with pytest.raises(UsageError, match="--force-gate NAME and --reason TEXT go together"):
            release.parse([*flags, *more])


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        ("daily", ["--index-m=200"], "--index-m 200, --index-ef-construction 100: expected 2 <= m <= ef_construction"),
        ("daily", ["--column=pin=item"], "--column pin=item: expected OURS=THEIRS"),
        ("daily", ["--gates=/no/such.yaml"], "--gates /no/such.yaml: "),
        ("verify", ["--model=/model"], "--model and --pins go together"),
        ("training-data", ["--end=2026-10-01"], "--end 2026-10-01 is before --start 2026-11-01"),
        ("train", ["--days=0"], "days, positions and labels must be positive"),
        ("evaluate", ["--no-baselines"], "--no-baselines without a --model leaves nothing to measure"),
        ("synth", ["--active-share=0"], "--active-share and --rows-per-active must be positive"),
    ],
)
def test_flags_that_do_not_go_together_are_refused_at_the_door(command, more, said):
    with pytest.raises(UsageError) as caught:
        door(command).parse([*FLAGS[command], *more])
    assert str(caught.value).startswith(said)


def test_random_negatives_are_no_more_than_the_corpus_unless_the_flag_says_so():
    parse = door("train").parse
    negatives = [
        parse([*FLAGS["train"], *more]).settings_for(100).negatives.random for more in ([], ["--random-negatives=200"])
    ]
    assert negatives == [100, 200]
    assert parse(FLAGS["train"]).settings_for(1 << 20).negatives.random == 8192

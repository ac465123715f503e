"""What a gate may look at."""

import dataclasses

from tests.transforms.gates.releases import manifest_of, staged_of
from transforms.gates.staged import StagedRelease, measured_once
from transforms.step_reports import StepReport

COUNTERS = {"read_logs": {"rows_read": 5, "rows_dropped": 2}}


def test_a_counter_that_is_not_there_is_none():
    staged = staged_of(dataclasses.replace(manifest_of(1, 1, 1), counters=COUNTERS))
    assert staged.count("read_logs", "rows_read") == 5
    assert staged.count("read_logs", "rows_read", "rows_dropped", "rows_erased") == 7
    assert staged.count("embed_users", "users_embedded") == 0
    assert staged.report("embed_users") == StepReport()


def test_the_release_before():
    first, second = manifest_of(1, 1, 1), manifest_of(2, 1, 1)
    assert staged_of(first).previous is None
    assert staged_of(first, [second, first]).previous is second


def test_what_several_gates_need_is_measured_once_per_release():
    asked = []

    @measured_once
    def users(staged: StagedRelease) -> int | None:
        asked.append(staged)
        return staged.manifest.rows("user_embeddings") or None

    one, two, nobody = (staged_of(manifest_of(count, 1, 1)) for count in (1, 2, 0))
    assert [users(staged) for staged in (one, one, two, one, nobody, nobody)] == [1, 1, 2, 1, None, None]
    assert asked == [one, two, nobody]

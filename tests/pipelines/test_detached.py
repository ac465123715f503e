"""Runs that are handed to an engine and asked for later."""

import time

import pytest

from pipelines.cli import main
from stores.files import Root
from stores.releases import current_release
from tests.pipelines.nights import make_world
from tests.pipelines.test_portable import pool
from tests.worlds import FIRST, day


def ask(root: str, run: str, capsys) -> tuple[int, str]:
    """What `release` says of a run, once it no longer says that there is no outcome yet."""
    waited = 0
    while True:
        code = main(["release", f"--root={root}", f"--run={run}", "--publish=none"])
        said = capsys.readouterr().err
        if "has no outcome yet" not in said:
            assert waited, "the launcher must not have waited for the job"
            return code, said
        assert code == 1 and "handed to" in said
        waited += 1
        time.sleep(1)


# Beam's in-process job service ends its streams with an error when the pool goes away.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_detached_run_is_finished_or_refused_as_daily_would(tmp_path, capsys):
    inputs, root = make_world(str(tmp_path)).inputs, f"{tmp_path}/root"
    (tmp_path / "strict.yaml").write_text("max_dropped_share: 0.0001\n")
    flags = [f"--root={root}", *inputs, f"--date={day(0)}", f"--bootstrap-from={FIRST}", "--publish=none", "--detach"]
    with pool() as engine:
        assert main(["daily", *flags, f"--gates={tmp_path}/strict.yaml", *engine]) == 0
        refused = capsys.readouterr().out.strip()
        code, said = ask(root, refused, capsys)
        assert code == 3 and "rows_dropped_share" in said and current_release(Root(root)) is None
        assert main(["daily", *flags, *engine]) == 0
        assert capsys.readouterr().out.strip() == refused  # gates are no part of a run's name
        assert ask(root, refused, capsys)[0] == 0
    assert current_release(Root(root)) == str(day(0))


def test_runners_that_end_with_the_launcher_are_refused(tmp_path, capsys):
    flags = [
        f"--root={tmp_path}/root",
        *make_world(str(tmp_path)).inputs,
        f"--date={day(0)}",
        f"--bootstrap-from={FIRST}",
    ]
    assert main(["daily", *flags, "--publish=none", "--detach"]) == 2
    assert "--detach: the in-process runners" in capsys.readouterr().err


def test_a_run_that_nobody_knows_is_named(tmp_path, capsys):
    assert main(["release", f"--root={tmp_path}", "--run=daily-x", "--publish=none"]) == 1
    assert "run daily-x was not finished" in capsys.readouterr().err

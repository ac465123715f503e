"""The lease: one run on a root at a time, and none that a killed one keeps out."""

import json
import subprocess
import sys
import time

import pytest

from stores.errors import LeaseLostError, StoreError
from stores.files import Root
from stores.lease import LEASE, check_lease, hold_lease

OTHER = {"run": "daily 2026-11-01", "holder": "somebody", "host": "another", "pid": 7, "process_start": ""}


def test_a_second_run_is_refused_and_a_third_is_not(tmp_path):
    root = Root(str(tmp_path))
    with (
        hold_lease(root, "first"),
        pytest.raises(StoreError, match="run first holds this root"),
        hold_lease(root, "2nd"),
    ):
        pass
    with hold_lease(root, "third"):
        assert json.loads(root.read_bytes(LEASE))["run"] == "third"
    assert not root.exists(LEASE)


def test_the_lease_is_renewed_while_the_run_lasts(tmp_path):
    root = Root(str(tmp_path))
    with hold_lease(root, "long", seconds=0.3):
        first = json.loads(root.read_bytes(LEASE))["expires"]
        deadline = time.monotonic() + 20
        while json.loads(root.read_bytes(LEASE))["expires"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_run_that_was_killed_holds_nothing(tmp_path):
    code = (
        "import os, signal; from stores.files import Root; from stores.lease import hold_lease\n"
        f"with hold_lease(Root({str(tmp_path)!r}), 'killed'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    root = Root(str(tmp_path))
    assert root.exists(LEASE)
    with hold_lease(root, "next"):
        pass


def test_a_lease_of_another_machine_runs_out(tmp_path):
    root = Root(str(tmp_path))
    lease = {"run": "far", "host": "another", "pid": 1, "process_start": "", "expires": time.time() + 100}
    root.write_bytes(LEASE, json.dumps(lease).encode())
    with pytest.raises(StoreError, match="on another.*in (100|9.) s"), hold_lease(root, "mine"):
        pass
    root.write_bytes(LEASE, json.dumps({**lease, "expires": time.time() - 1}).encode())
    with hold_lease(root, "mine"):
        pass


def test_a_holder_is_known_until_somebody_else_takes_over(tmp_path):
    root = Root(str(tmp_path))
    with hold_lease(root, "mine", seconds=0.2) as holder:
        check_lease(root, holder)
        root.write_bytes(LEASE, json.dumps({**OTHER, "expires": 1e12}).encode())
        with pytest.raises(LeaseLostError, match="process 7 on another"):
            check_lease(root, holder)
    with pytest.raises(LeaseLostError, match="holds it now"):
        check_lease(root, holder)
    root.remove(LEASE)
    with pytest.raises(LeaseLostError, match="it was given back"):
        check_lease(root, holder)


def test_a_renewal_does_not_change_the_length(tmp_path, monkeypatch):
    root, lengths = Root(str(tmp_path)), set()
    for now in (1e9, 1.5e9 + 0.25, 1764115200.123456):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        with hold_lease(root, "a run"):
            lengths.add(len(root.read_bytes(LEASE)))
            assert json.loads(root.read_bytes(LEASE))["expires"] == now + 120
    assert len(lengths) == 1

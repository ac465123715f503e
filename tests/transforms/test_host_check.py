"""What a host must be before its worker does anything; each thing that it may be wrong, one by one."""

import dataclasses
import pickle
import socket

import pytest

from stores.errors import StoreError
from stores.files import Root
from tests.transforms.test_run import make_run
from transforms import host_check
from transforms.host_check import HostCheck, loopback_address, refuse_other_software, software
from transforms.run import Run, checks_removed


@pytest.fixture
def model(tmp_path) -> tuple[str, int]:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return str(tmp_path / "model.safetensors"), 7


@pytest.fixture
def launched(tmp_path, model) -> Run:
    """As the launcher hands it to workers."""
    return make_run(tmp_path / "root").launched(hosts=HostCheck(software(), (model,), ("kv.example",)))


def on_worker(run: Run, **other) -> Run:
    """The run as another process has it, of a launcher that had something else."""
    launch = dataclasses.replace(run.launch, hosts=dataclasses.replace(run.launch.hosts, **other))
    return pickle.loads(pickle.dumps(dataclasses.replace(run, launch=launch)))


def test_a_host_like_the_launchers_is_not_refused_and_leaves_nothing(launched):
    before = launched.root.list(launched.staging)
    on_worker(launched).check_root()
    assert launched.root.list(launched.staging) == before == ["token"]
    assert abs(launched.launch.hosts.ahead_s) < 1


def test_what_a_worker_left_that_was_stopped_in_its_check_goes_when_its_job_fails(launched):
    launched.root.write_bytes(f"{launched.staging}/clock-0123456789abcdef", b"")
    with pytest.raises(StoreError, match="of another host"), checks_removed(launched):
        raise StoreError("of another host")
    assert launched.root.list(launched.staging) == ["token"]


def test_another_version_of_anything_is_named_here_and_there(launched):
    names = dict(software())
    assert "code " in names["pinnerformer"] and not any("+" in version for version in names.values())
    for name in names:
        theirs = tuple({**names, name: "of the launcher"}.items())
        with pytest.raises(StoreError) as error:
            on_worker(launched, software=theirs).check_root()
        assert f"worker {socket.gethostname()} has another version" in str(error.value)
        assert f": {name} {names[name]} (of the launcher there); start" in str(error.value)
    refuse_other_software({}, "a pool that is asked by something else")


def test_the_digest_of_the_code_changes_with_any_file_and_not_with_its_place(tmp_path, monkeypatch):
    def digest(place: str, text: str, name: str = "run.py") -> str:
        folder = tmp_path / place / "transforms"
        folder.mkdir(parents=True)
        (folder / name).write_text(text)
        monkeypatch.setattr(host_check, "__file__", str(folder / "host_check.py"))
        return host_check._code_digest()

    same = {digest("image", "a = 1\n"), digest("checkout", "a = 1\n")}
    assert len({*same, digest("other", "a = 2\n"), digest("moved", "a = 1\n", "walk.py")}) == 3


def test_a_host_without_the_model_or_with_another_is_refused_before_work(launched, model):
    path, _ = model
    with pytest.raises(StoreError, match=r"model.safetensors: 7 bytes and not 8 on worker .* the launcher's --model"):
        on_worker(launched, files=((path, 8),)).check_root()
    with pytest.raises(StoreError, match="-elsewhere: not there on worker .* at the same path on every worker"):
        on_worker(launched, files=((f"{path}-elsewhere", 7),)).check_root()


@pytest.mark.parametrize(("wrong_s", "words"), [(60, "60 s ahead of"), (-60, "60 s behind")])
def test_a_clock_a_minute_apart_is_refused_and_one_that_is_a_little_off_is_not(launched, monkeypatch, wrong_s, words):
    true = host_check.time.time
    monkeypatch.setattr(host_check.time, "time", lambda: true() + wrong_s / 5)
    on_worker(launched).check_root()
    monkeypatch.setattr(host_check.time, "time", lambda: true() + wrong_s)
    with pytest.raises(StoreError, match=f"the clock of worker .* is {words} the launcher's"):
        on_worker(dataclasses.replace(launched, name=launched.name), names=()).check_root()
    assert launched.root.list(launched.staging) == ["token"]


def test_a_name_that_is_this_host_itself_is_refused_before_the_root_is_asked(launched):
    assert loopback_address("localhost") in ("127.0.0.1", "::1") and loopback_address("127.0.1.1") == "127.0.1.1"
    assert loopback_address("0.0.0.0") and not loopback_address("192.0.2.1") and not loopback_address("no such name")
    elsewhere = dataclasses.replace(on_worker(launched, names=("localhost",)), root=Root("/nowhere"))
    with pytest.raises(StoreError, match=r"localhost: (127\.0\.0\.1|::1) on worker .*: this host takes the name for"):
        elsewhere.check_root()

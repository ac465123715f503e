"""A password is in the URL or in the environment, and nowhere else: not on the screen, not in a file."""

import os

from pipelines.cli import main
from tests.redis_server import free_port, running_redis
from tests.worlds import day

PASSWORD = "correct-horse-battery"


def test_no_password_is_printed_or_written(one_night, tmp_path, capfd, monkeypatch):
    world, root = one_night
    (tmp_path / "leavers").write_text("7\n")
    with running_redis(str(tmp_path), password=PASSWORD) as port:
        for kv in (f"redis://:{PASSWORD}@127.0.0.1:{port}/0", "env:PINNERFORMER_KV"):
            monkeypatch.setenv("PINNERFORMER_KV", f"redis://:{PASSWORD}@127.0.0.1:{port}/0")
            (run,) = os.listdir(f"{root}/staging")
            assert main(["release", f"--root={root}", f"--run={run}", f"--kv={kv}"]) == 0
            assert main(["status", f"--root={root}", f"--kv={kv}"]) == 0
            assert main(["verify", f"--root={root}", f"--kv={kv}"]) == 0
            assert main(["gc", f"--root={root}", f"--kv={kv}"]) == 0
        assert main(["erase", f"--root={root}", f"--users={tmp_path}/leavers", f"--kv={kv}"]) == 0
    dead = f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"
    for command in (
        ["status"],
        ["verify"],
        ["gc"],
        ["rollback", "--reason=x"],
        ["erase", f"--users={tmp_path}/leavers"],
        ["daily", *world.inputs, f"--date={day(1)}"],
    ):
        assert main([command[0], f"--root={root}", *command[1:], f"--kv={dead}"]) in (1, 2)
    printed = capfd.readouterr()
    assert "127.0.0.1" in printed.out + printed.err and PASSWORD not in printed.out + printed.err
    for where, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(where, name), "rb") as file:
                assert PASSWORD.encode() not in file.read(), name

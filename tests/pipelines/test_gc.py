"""gc: what is kept, what goes, and a gc that was stopped."""

import os

from pipelines.cli import main
from stores.files import Root
from stores.releases import chain
from tests.pipelines.nights import files_under, named, run_night
from tests.worlds import day, write_file


def test_gc_keeps_what_is_kept_and_removes_the_rest(kept, capsys):
    before = files_under(kept.root)
    assert kept.of_root("gc", "--keep=2", "--keep-snapshots=3", "--dry-run") == 0
    assert files_under(kept.root) == before and "would be slimmed" in capsys.readouterr().out
    os.makedirs(f"{kept.root}/staging/daily-2020-01-01-dead", exist_ok=True)
    with open(f"{kept.root}/staging/daily-2020-01-01-dead/x.json", "w") as file:
        file.write("{}")
    os.utime(file.name, (1e9, 1e9))
    strays = ["histories/2026-11-01/part-00000-stray.parquet", "histories/2026-11-01/.tmp-left"]
    strays += [".tmp-current", f"releases/{day(1)}/.tmp-manifest", f"releases/{day(1)}/dead_letters/.tmp-rows"]
    for stray in strays:
        with open(f"{kept.root}/{stray}", "w") as file:
            file.write("left by a killed worker")
        os.utime(file.name, (1e9, 1e9))
    for young in ("histories/2026-11-01/part-00000-young.parquet", "indexes/2026-11-01/.tmp-young", ".tmp-young"):
        with open(f"{kept.root}/{young}", "w") as file:
            file.write("being written by a worker that outlived its driver")
    assert kept.of_root("gc", "--keep=2", "--keep-snapshots=3") == 0
    assert not any(os.path.exists(f"{kept.root}/{stray}") for stray in strays)
    for young in ("histories/2026-11-01/part-00000-young.parquet", "indexes/2026-11-01/.tmp-young", ".tmp-young"):
        os.remove(f"{kept.root}/{young}")
    releases = {m.release: m for m in chain(Root(kept.root))}
    assert [releases[str(day(n))].dropped for n in (3, 2)] == [[], []]
    assert releases[str(day(1))].dropped == ["histories", "pin_embeddings", "indexes", "canaries"]
    assert releases[str(day(0))].dropped == ["histories", "user_embeddings", "pin_embeddings", "indexes", "canaries"]
    assert all(m.inputs for m in releases.values())  # what was read stays known
    left = {
        path for path in files_under(kept.root) if path.split("/")[0] in ("histories", "user_embeddings", "indexes")
    }
    assert left <= named(kept.root) and named(kept.root) <= set(files_under(kept.root))
    assert not os.path.exists(f"{kept.root}/staging/daily-2020-01-01-dead")
    for number in (3, 2, 1):
        assert main(["verify", f"--root={kept.root}", f"--release={day(number)}"]) == 0
    assert kept.verify() == 0
    before = files_under(kept.root)
    assert kept.of_root("gc", "--keep=2", "--keep-snapshots=3") == 0 and files_under(kept.root) == before
    assert main(["rollback", f"--root={kept.root}", "--publish=none", "--reason=x", f"--to={day(1)}"]) == 1
    assert "gc removed them" in capsys.readouterr().err
    # A late file of a day that only a slimmed release has read, and the days that it read: neither is missed.
    write_file(f"{kept.world.folder}/logs", 1, kept.world.late, "late.parquet")
    after = run_night(kept.world, kept.root, 4, f"--kv={kept.kv}")
    assert [file["path"] for file in after.inputs] == [
        f"ds={day(1)}/late.parquet",
        f"ds={day(4)}/a.parquet",
        f"ds={day(4)}/b.parquet",
    ]


def test_gc_never_slims_what_a_store_serves(kept):
    root = Root(kept.root)
    assert main(["rollback", f"--root={kept.root}", f"--kv={kept.kv}", "--reason=x", f"--to={day(0)}"]) == 0
    root.remove("HELD")
    root.write_bytes("CURRENT", f"{day(3)}\n".encode())  # committed, and not published yet
    assert kept.of_root("gc", "--keep=1", "--keep-snapshots=1") == 0
    assert {m.release: bool(m.dropped) for m in chain(root)} == {
        str(day(3)): False,
        str(day(2)): True,
        str(day(1)): True,
        str(day(0)): False,
    }


def test_gc_stopped_halfway_does_the_rest(kept, monkeypatch):
    remove, left = Root.remove, [3]

    def stumbling(self, relative):
        if relative.startswith("histories/"):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        remove(self, relative)

    with monkeypatch.context() as patched:
        patched.setattr(Root, "remove", stumbling)
        assert kept.of_root("gc", "--keep=1", "--keep-snapshots=1") == 1
    assert named(kept.root) <= set(files_under(kept.root))
    os.remove(f"{kept.root}/lease.json") if os.path.exists(f"{kept.root}/lease.json") else None
    assert kept.of_root("gc", "--keep=1", "--keep-snapshots=1", "--grace=0s") == 0
    tables = ("histories", "user_embeddings", "pin_embeddings", "indexes", "canaries")
    assert {p for p in files_under(kept.root) if p.split("/")[0] in tables} == named(kept.root)

"""Repair: after a bad input was corrected, the root is as if it had been right from the start."""

import numpy as np

from pipelines.cli import main
from stores.files import Root
from stores.manifests import Manifest
from stores.releases import read_current
from tests.pipelines.nights import cosines, histories_of, run_night, vectors_of
from tests.worlds import day, midnight, write_file

STRANGER = 900


def assert_same(root: str, manifest: Manifest, wanted_root: str, wanted: Manifest) -> None:
    assert histories_of(root, manifest) == histories_of(wanted_root, wanted)
    found, expected = vectors_of(root, manifest), vectors_of(wanted_root, wanted)
    assert found.keys() == expected.keys()
    a, b = (np.stack([np.frombuffer(v[u], np.float16) for u in sorted(found)]) for v in (found, expected))
    assert cosines(a, b).min() >= 0.9999


def test_a_corrected_partition_and_a_named_user(kept_nights, one_night, tmp_path, capsys):
    world, root = one_night
    _, right = kept_nights.copy(2, str(tmp_path / "right"))
    wanted = read_current(Root(right))
    # Half of the partition was of another shop: other pins, a user who does not exist, others who did nothing.
    bad = [{**row, "pin_id": 80 - row["pin_id"] % 40} for row in world.rows[1][:60] if row["pin_id"] >= 0]
    bad += [{**row, "user_id": STRANGER, "timestamp_ms": midnight(1)} for row in bad[:4] if row["user_id"] is not None]
    elsewhere = {**bad[0], "user_id": STRANGER + 1, "timestamp_ms": midnight(0) + 5, "duration_s": 3.0}
    write_file(f"{tmp_path}/logs", 1, [*bad, elsewhere], "a.parquet")
    wrong = run_night(world, root, 1, "--publish=none")
    assert STRANGER in vectors_of(root, wrong)
    write_file(f"{tmp_path}/logs", 1, world.rows[1][:150], "a.parquet")

    repair = ["repair", f"--root={root}", *world.inputs, "--publish=none", "--quiet"]
    assert main([*repair, f"--partition={day(1)}"]) == 0
    repaired = read_current(Root(root))
    assert (repaired.release, repaired.previous) == (f"{day(1)}.2", str(day(1)))
    assert repaired.counters["read_logs"]["rows_of_others"] >= 0
    # A bad row of another day: its user is in neither, and has to be named.
    assert {u for u in vectors_of(root, repaired) if u >= STRANGER} == {STRANGER + 1}
    (tmp_path / "users").write_text(f"{STRANGER + 1}\n")
    (tmp_path / "gates.yaml").write_text("max_lost_share: 0.5\n")
    assert main([*repair, f"--users={tmp_path}/users", f"--gates={tmp_path}/gates.yaml"]) == 0
    again = read_current(Root(root))
    assert again.release == f"{day(1)}.3"
    assert_same(root, again, right, wanted)
    assert main([*repair, "--partition=2020-01-01"]) == 1
    assert "--partition 2020-01-01" in capsys.readouterr().err.splitlines()[0]
    assert main(repair) == 2

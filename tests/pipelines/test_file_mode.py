"""`--file-mode`: every file under a root has the mode that the root was made with, whoever writes it later."""

import os

import pytest

from pipelines.cli import main
from stores.local_files import chosen_file_mode, use_file_mode
from tests.pipelines.nights import first_night, make_world, run_night


@pytest.fixture(autouse=True)
def as_before():
    before = chosen_file_mode()
    yield
    use_file_mode(before)


def modes(root: str) -> set[str]:
    """Of the files that hold anything of people: lease, locks and notes of progress hold nothing."""
    found = set()
    for folder, _, names in os.walk(root):
        if not folder.endswith("progress"):
            found |= {
                oct(os.stat(f"{folder}/{n}").st_mode & 0o777) for n in names if not n.startswith((".lock", "lease"))
            }
    return found


def test_a_root_keeps_the_mode_it_was_made_with(tmp_path, capsys):
    world, root = make_world(str(tmp_path)), str(tmp_path / "root")
    first_night(world, root, "--file-mode=0600", "--user-buckets=2", "--pin-shards=1")
    assert modes(root) == {"0o600"}
    use_file_mode(None)  # as another process begins
    run_night(world, root, 1, "--publish=none")
    assert modes(root) == {"0o600"}
    night = ["daily", f"--root={root}", *world.inputs, "--date=2026-11-03", "--publish=none", "--quiet"]
    assert main([*night, "--file-mode=0644"]) == 2
    assert "--file-mode 0644:" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["640", "0o640", "0444", "0888", "rw"])
def test_what_is_no_mode(mode, capsys):
    assert (
        main(["plan", "--root=r", "--logs=l", "--pins=p", "--model=m", "--date=2026-11-03", f"--file-mode={mode}"]) == 2
    )
    assert "is not a mode of files" in capsys.readouterr().err

"""Disks that fill up and bits that flip."""

import dataclasses
import os
import shutil
import subprocess

import pytest

from pipelines.cli import main
from stores.files import Root
from stores.releases import read_current
from tests.pipelines.test_bad_input import first, refused, served  # noqa: F401 fixtures
from tests.worlds import day


@pytest.mark.parametrize("table", ["histories", "user_embeddings"])
@pytest.mark.parametrize("place", [0.02, 0.5, 0.98])
def test_a_bit_that_flipped_in_the_release_before(served, capsys, table, place):  # noqa: F811
    manifest = read_current(Root(served.root))
    entry = max(manifest.tables[table], key=lambda entry: entry.bytes)
    path = f"{served.root}/{entry.path}"
    with open(path, "r+b") as file:
        file.seek(int(entry.bytes * place))
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))
    line = refused(served, capsys, 1, path, "sha256")
    assert "restore the file" in line


def test_a_run_goes_on_once_the_disk_has_room_again(served, tmp_path):  # noqa: F811
    """What was done before the disk was full is taken over, and the end is what it would have been."""
    arguments = [*served.arguments(), "--publish=none"]
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], capture_output=True, text=True)
    if mounted.returncode:
        assert os.environ.get("PINNERFORMER_NO_MOUNT"), (
            f"no file system of a small size can be mounted here ({mounted.stderr.strip()}); "
            "set PINNERFORMER_NO_MOUNT=1 if that is meant to be so"
        )
        pytest.skip("PINNERFORMER_NO_MOUNT is set")
    try:
        shutil.copytree(served.root, small / "root")
        used = shutil.disk_usage(small).used
        there = dataclasses.replace(served, root=str(small / "root"))
        for room in (100_000, 250_000, 32 << 20):
            subprocess.run(["mount", "-o", f"remount,size={used + room}", small], check=True)
            code = main([*there.arguments(), "--publish=none"])
        assert code == 0
        assert main(arguments) == 0
        manifests = [read_current(Root(root)) for root in (there.root, served.root)]
        assert manifests[0].tables == manifests[1].tables and manifests[0].release == str(day(1))
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)

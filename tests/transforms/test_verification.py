"""What verify says of names, where ids are strings."""

import dataclasses

import pyarrow as pa

from stores.files import Root
from stores.manifests import Manifest
from stores.tables import read_files, write_part
from tests.stores.snapshots import named_release
from tests.worlds import FIRST
from transforms.verification import check_names

USERS, PINS = [f"u-{n}" for n in range(9)], ["sku 1", "sku 2", "sku 3"]


def with_rows(root: Root, manifest: Manifest, table: str, change) -> Manifest:
    """A release whose last part of a table was changed, checksums and all."""
    *others, entry = manifest.tables[table]
    new = write_part(root, table, FIRST, entry.part, change(read_files(root, [entry])))
    return dataclasses.replace(manifest, tables={**manifest.tables, table: [*others, new]})


def test_names_that_are_wrong(tmp_path):
    root = Root(str(tmp_path))
    manifest = named_release(root, USERS, PINS)
    assert check_names(root, manifest) == []

    def wrong(table: str, change, *expected: str) -> None:
        (*problems,) = check_names(root, with_rows(root, manifest, table, change))
        assert len(problems) == len(expected) and all(
            text in said for text, said in zip(expected, problems, strict=True)
        )
        assert all(f"{tmp_path}/{table}/" in said for said in problems)

    def rename(rows: pa.Table) -> pa.Table:
        return rows.set_column(1, "name", pa.array(["another", *rows["name"].to_pylist()[1:]]))

    for table in ("user_names", "pin_names"):
        wrong(table, rename, "1 names are not of their ids, first 'another'")
        wrong(table, lambda rows: rows.take(list(range(len(rows)))[::-1]), "not in order of")
    wrong("user_names", lambda rows: rows.slice(1), "1 users of part 2 have no name, first that with hash")
    left = {name: entries for name, entries in manifest.tables.items() if name != "pin_names"}
    (said,) = check_names(root, dataclasses.replace(manifest, tables=left))
    assert said.endswith("manifest.json: has no table pin_names")
    assert check_names(root, dataclasses.replace(manifest, tables=left, dropped=["pin_names"])) == []


def test_ids_in_another_part_than_theirs(tmp_path):
    root = Root(str(tmp_path))
    manifest = named_release(root, USERS, PINS)
    first, *others = manifest.tables["user_names"]
    moved = [dataclasses.replace(first, part=others[0].part), *others]
    said = check_names(root, dataclasses.replace(manifest, tables={**manifest.tables, "user_names": moved}))
    assert any("holds ids that belong to another part than 1" in words for words in said)

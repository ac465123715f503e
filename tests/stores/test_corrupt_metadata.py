"""Headers that lie, links that lead away, roots of other versions: refused by name, before anything is allocated."""

import dataclasses
import json
import os
import resource
import shutil
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinnerformer_model.checkpoint import load_model
from pinnerformer_model.config import ModelError
from pipelines.cli import main
from stores.errors import InputError, StoreError
from stores.files import Root
from stores.hnsw import HnswGraph
from stores.indexes import NO_TWINS, IndexParameters, IndexShard, load_shards, write_shard
from stores.local_files import sha256_file
from stores.logs import ColumnNames, open_log_file
from stores.manifests import FORMAT, manifest_path, read_manifest
from stores.pin_vectors import describe_vectors
from stores.retention import Retention, collect
from stores.tables import read_files, write_part
from tests.stores.test_untrusted_files import root  # noqa: F401 a fixture
from tests.worlds import FIRST, write_model, write_vectors

ROWS = 12_347  # a number that occurs in no other place of a footer
LIE = 1 << 45


def varint(number: int) -> bytes:
    """A positive number as Thrift's compact protocol writes it: zigzag, seven bits a byte."""
    number, out = 2 * number, b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def lie(path: str, told: int = LIE, rows: int = ROWS) -> None:
    """Makes a Parquet file's footer say another number of rows, in every place where it says it."""
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<I", data[-8:-4])
    body, footer = data[: -8 - length], data[-8 - length : -8]
    assert footer.count(varint(rows)) >= 3
    footer = footer.replace(varint(rows), varint(told))
    with open(path, "wb") as file:
        file.write(body + footer + struct.pack("<I", len(footer)) + data[-4:])


def log_rows() -> pa.Table:
    words = pa.array(["save"] * ROWS)
    columns = {name: np.arange(ROWS) for name in ("user_id", "pin_id", "timestamp_ms")}
    return pa.table({**columns, "action": words, "surface": words, "duration_s": pa.nulls(ROWS, pa.float32())})


def test_a_log_file_that_says_it_has_more_rows(tmp_path):
    path = str(tmp_path / "a.parquet")
    pq.write_table(log_rows(), path)
    open_log_file(path, ColumnNames())
    lie(path)
    with pytest.raises(InputError, match="at most") as error:
        open_log_file(path, ColumnNames())
    assert path in str(error.value).splitlines()[0]


def test_vectors_that_say_they_are_more(tmp_path):
    write_vectors(str(tmp_path), {pin: np.ones(256, np.float16) for pin in range(3)})
    flat = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(256 * ROWS, np.float16)), 256)
    path = str(tmp_path / "vectors.parquet")
    pq.write_table(pa.table([np.arange(ROWS), flat], names=["pin_id", "vector"]), path)
    assert describe_vectors(str(tmp_path), "v1").rows == ROWS
    lie(path)
    with pytest.raises(InputError) as error:
        describe_vectors(str(tmp_path), "v1")
    assert path in str(error.value).splitlines()[0]


def test_a_table_whose_manifest_repeats_the_lie(root):  # noqa: F811
    entry = write_part(root, "histories", FIRST, 0, pa.table({"user_id": np.arange(ROWS)}))
    path = root.path(entry.path)
    lie(path)
    honest = dataclasses.replace(entry, bytes=os.path.getsize(path), checksum=sha256_file(path), rows=LIE)
    with pytest.raises(StoreError, match="at most") as error:
        read_files(root, [honest], verify=True)
    assert path in str(error.value).splitlines()[0]
    with pytest.raises(StoreError, match="bytes, its manifest says"):
        read_files(root, [dataclasses.replace(honest, bytes=7)])


@pytest.mark.parametrize("place", [1, 2, 3])  # of the header: room, elements, bytes an element
def test_an_index_that_asks_for_room(tmp_path, place):
    root = Root(str(tmp_path / "root"))  # noqa: F811
    rows = np.arange(9)
    shard = IndexShard(HnswGraph.build(rows, np.eye(9, 16, dtype=np.float32), rows, IndexParameters()), NO_TWINS)
    (entry,) = write_shard(root, FIRST, 0, shard)
    assert len(load_shards(root, [entry], 16)[0]) == 9
    path = root.path(entry.path)
    with open(path, "r+b") as file:
        file.seek(8 * place)
        file.write(struct.pack("<Q", 1 << 42))
    with pytest.raises(StoreError, match="header") as error:
        load_shards(root, [entry], 16)
    assert path in str(error.value).splitlines()[0]


HUGE = {"hidden_size": 1 << 19, "num_layers": 1 << 19, "max_sequence_length": 1 << 20, "embedding_dim": 1 << 20}


@pytest.mark.parametrize("key", [*HUGE, "header", "shape", "beyond"])
def test_a_model_that_asks_for_more_than_it_holds(tmp_path, key):
    """In a process that may not have the memory: it would end there."""
    folder = write_model(str(tmp_path / "model"))
    weights, config = f"{folder}/model.safetensors", f"{folder}/config.json"
    with open(weights, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    if key in HUGE or key == "beyond":
        with open(config) as file:
            found = json.load(file)
        found["hidden_size" if key == "beyond" else key] = HUGE.get(key, 1 << 40)
        with open(config, "w") as file:
            json.dump(found, file)
        named = config if key == "beyond" else weights
    else:
        if key == "shape":
            name = next(name for name in header if name != "__metadata__")
            header[name]["shape"] = [1 << 40, 1 << 20]
        text = json.dumps(header).encode()
        with open(weights, "wb") as file:
            file.write(struct.pack("<Q", 1 << 50 if key == "header" else len(text)) + text + data[8 + length :])
        named = weights
    with pytest.raises(ModelError) as error:
        limit = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used_memory() + (1 << 30), limit[1]))
        try:
            load_model(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limit)
    assert named in str(error.value).splitlines()[0]


def used_memory() -> int:
    """Bytes of address space of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def link_away(root: Root, relative: str, outside: str) -> None:  # noqa: F811
    """Puts a link in the place of a file or folder, to a copy of it outside the root."""
    path = root.path(relative)
    shutil.move(path, outside)
    os.symlink(outside, path)


def test_links_that_lead_out_of_the_root(root, tmp_path):  # noqa: F811
    entry = read_manifest(root, str(FIRST)).tables["histories"][0]
    link_away(root, entry.path, str(tmp_path / "outside.parquet"))
    for use in (
        lambda: read_files(root, [entry]),
        lambda: root.write_bytes(entry.path, b""),
        lambda: root.compare_and_swap(entry.path, None, b""),
        lambda: root.remove(entry.path),
        lambda: collect(root, Retention(releases=1), []),
    ):
        with pytest.raises(StoreError, match="leads out of the root") as error:
            use()
        assert root.path(entry.path) in str(error.value).splitlines()[0]
    assert os.path.getsize(tmp_path / "outside.parquet") == entry.bytes


def test_a_folder_that_leads_out_of_the_root_is_left_alone(root, tmp_path):  # noqa: F811
    link_away(root, "user_embeddings", str(tmp_path / "outside"))
    (tmp_path / "outside" / "stray").write_text("of somebody else")
    with pytest.raises(StoreError, match="leads out of the root"):
        collect(root, Retention(releases=1), [])
    with pytest.raises(StoreError, match="leads out of the root"):
        write_part(root, "user_embeddings", FIRST, 0, pa.table({"user_id": [1]}))
    assert (tmp_path / "outside" / "stray").exists()


def test_a_root_that_is_reached_by_a_link_and_links_within_are_fine(root, tmp_path):  # noqa: F811
    entry = read_manifest(root, str(FIRST)).tables["histories"][0]
    os.symlink(root.url, tmp_path / "alias")
    assert read_files(Root(str(tmp_path / "alias")), [entry]).num_rows == entry.rows
    shutil.move(root.path(entry.path), root.path("histories/elsewhere"))
    os.symlink(root.path("histories/elsewhere"), root.path(entry.path))
    assert read_files(root, [entry]).num_rows == entry.rows


@pytest.mark.parametrize(
    ("version", "said"), [(FORMAT + 1, "upgrade pinnerformer"), (None, "pinnerformer backfill"), (0, "older version")]
)
def test_a_root_of_another_version(root, version, said):  # noqa: F811
    relative = manifest_path(str(FIRST))
    found = root.read_json(relative)
    found["format"] = version
    if version is None:
        del found["format"]
    found["something_new"] = 1
    root.write_json(relative, found)
    with pytest.raises(StoreError, match=said) as error:
        read_manifest(root, str(FIRST))
    line = str(error.value).splitlines()[0]
    assert root.path(relative) in line and f"format {version or 0}" in line and f"reads format {FORMAT}" in line
    assert main(["status", f"--root={root.url}"]) == 1

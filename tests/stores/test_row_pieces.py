"""Rows staged by bucket: every bucket finds its own, in their order."""

from stores.files import Root
from stores.row_pieces import list_buckets, read_pieces, write_pieces


def test_every_bucket_finds_its_own_pieces(tmp_path):
    root = Root(str(tmp_path))
    pieces = [(7, b"a"), (2, b"bb"), (7, b""), (0, b"c"), (7, b"d" * 5000)]
    entry = write_pieces(root, "rows", "a+00000", pieces, rows=9)
    assert entry.rows == 9 and list_buckets(root, entry).tolist() == [0, 2, 7]
    found = {bucket: [piece.to_pybytes() for piece in read_pieces(root, entry, bucket)] for bucket in range(9)}
    assert {bucket: content for bucket, content in found.items() if content} == {
        0: [b"c"],
        2: [b"bb"],
        7: [b"a", b"", b"d" * 5000],
    }
    assert write_pieces(root, "rows", "a+00000", pieces, rows=9) == entry


def test_a_unit_without_rows(tmp_path):
    root = Root(str(tmp_path))
    entry = write_pieces(root, "rows", "a+00000", [], rows=0)
    assert not len(list_buckets(root, entry)) and read_pieces(root, entry, 0) == []

"""Lists of users as people write them."""

import pytest

from stores.errors import UsageError
from stores.string_ids import INT64, STRING, hash_text
from stores.user_lists import read_listed, read_user_list, to_user_list


def write(tmp_path, data: bytes) -> str:
    (tmp_path / "list").write_bytes(data)
    return f"{tmp_path}/list"


def test_numbers(tmp_path):
    assert read_user_list(write(tmp_path, b"17\r\n\n -5 \n17\n")).tolist() == [-5, 17]
    for line in (b"u-17", b"1_000", b"17.0", "\u0661".encode(), b"\xff"):
        with pytest.raises(UsageError, match="list: line 2: .* is not a user id; one per line"):
            read_user_list(write(tmp_path, b"1\n" + line))


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"u-17\n\nu-18\n", ["u-17", "u-18"]),
        (b"u-17\r\n17\r\n", ["u-17", "17"]),
        (b" u-17 \n\tu\n", [" u-17 ", "\tu"]),  # nothing is cut off
        (b"\xef\xbb\xbfu-17\n", ["u-17"]),
        (b"a\nb\0c\r\0", ["a\nb", "c\r"]),
        ("\u00e9\ne\u0301".encode(), ["\u00e9", "e\u0301"]),
    ],
)
def test_strings_are_taken_as_they_stand(tmp_path, data, texts):
    path = write(tmp_path, data)
    assert read_listed(path, STRING) == {hash_text(text): text for text in texts}
    assert read_user_list(path, STRING).tolist() == sorted(hash_text(text) for text in texts)


def test_strings_that_are_no_text_are_named(tmp_path):
    with pytest.raises(UsageError, match="list: line 2: not UTF-8"):
        read_user_list(write(tmp_path, b"u\n\xff\xfe\n"), STRING)
    for data in (b"", b"\n\r\n", b"\0"):
        with pytest.raises(UsageError, match="nobody in it"):
            read_user_list(write(tmp_path, data), STRING)


@pytest.mark.parametrize(("ids", "kind"), [([5, -7], INT64), (["u-17", " x"], STRING), (["a\nb", "c\r", "d"], STRING)])
def test_a_list_that_is_written_is_read_again(tmp_path, ids, kind):
    assert list(read_listed(write(tmp_path, to_user_list(ids)), kind).values()) == [str(one) for one in ids]

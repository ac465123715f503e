"""What flags say of other people's columns and words."""

import pyarrow as pa
import pytest

from stores.column_names import OUR_NAMES, ColumnNames
from stores.errors import UsageError
from stores.log_text import read_text, replace_words


def test_names_absent_columns_and_words():
    found = ColumnNames.parse(
        ["pin_id=sku", "vector=embedding", "timestamp_ms=a=b"],
        ["surface", "action=buy", "duration_s"],
        ["action:purchase=buy", "action:a=b=c", "surface:=home", "action:purchase=buy"],
    )
    assert [found.theirs(name) for name in ("pin_id", "vector", "timestamp_ms", "user_id")] == [
        "sku",
        "embedding",
        "a=b",
        "user_id",
    ]
    assert found.absent == (("action", "buy"), ("duration_s", None), ("surface", "unknown"))
    assert found.words("action") == {"purchase": "buy", "a=b": "c"} and found.words("surface") == {"": "home"}
    assert found.in_force(["surface", "surface"]) == {
        "absent": {"surface": "unknown"},
        "values": {"action": {"a=b": "c", "purchase": "buy"}, "surface": {"": "home"}},
    }
    assert OUR_NAMES == ColumnNames.parse([]) and OUR_NAMES.in_force([]) == {}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((["sku"], [], []), "--column sku: expected OURS=THEIRS with OURS one of user_id, .*vector, pins.pin_id"),
        ((["sku=pin_id"], [], []), "--column sku=pin_id: expected"),
        ((["vector="], [], []), "--column vector=: expected"),
        (([], ["user_id"], []), "--absent user_id: expected one of action, surface, duration_s"),
        (([], ["duration_s=0"], []), "--absent duration_s=0: .*not measured"),
        (([], ["surface="], []), "--absent surface=: expected"),
        (([], [], ["purchase=buy"]), "--value purchase=buy: expected COLUMN:THEIRS=OURS"),
        (([], [], ["pin_id:1=2"]), "--value pin_id:1=2: expected"),
        (([], [], ["action:purchase"]), "--value action:purchase: expected"),
        (([], [], ["action:purchase="]), "--value action:purchase=: expected"),
        (([], [], ["action:p=buy", "action:p=view"]), "--value action:p=view: by another --value it is 'buy'"),
    ],
)
def test_flags_that_say_nothing_that_can_be(flags, said):
    with pytest.raises(UsageError, match=said):
        ColumnNames.parse(*flags)


@pytest.mark.parametrize(
    ("flags", "there", "found"),
    [
        ([], ["pin_id", "vector"], ("pin_id", "vector")),
        (["pin_id=sku"], ["pin_id", "vector"], ("pin_id", "vector")),  # of the logs alone
        (["pin_id=sku"], ["sku", "vector"], ("sku", "vector")),
        (["pin_id=item", "pins.pin_id=sku"], ["sku", "pin_id", "item", "vector"], ("sku", "vector")),
        (["pins.pin_id=sku", "vector=e"], ["pin_id", "vector"], ("pin_id", "vector")),  # made by `item-vectors`
        (["pins.pin_id=sku", "vector=e"], ["e", "vector", "sku"], ("sku", "e")),
        (["pins.pin_id=sku", "vector=e"], ["x"], ("sku", "e")),  # then an error names what was asked for
    ],
)
def test_columns_of_vectors(flags, there, found):
    assert ColumnNames.parse(flags).of_vectors(there) == found


def test_two_columns_that_may_be_the_pins():
    with pytest.raises(
        ValueError, match="'sku' and 'pin_id' may both be the pins; say which with --column pins.pin_id"
    ):
        ColumnNames.parse(["pin_id=sku"]).of_vectors(["sku", "pin_id", "vector"])


def test_two_words_that_become_one_are_one():
    column = pa.array(["buy", "add", None, "view", "add", "wish"]).dictionary_encode()
    got = replace_words(column, {"add": "buy", "wish": "like", "never": "seen"})
    assert got.to_pylist() == ["buy", "buy", None, "view", "buy", "like"]
    assert got.dictionary.to_pylist() == ["buy", "view", "like"] and got.type == column.type
    assert replace_words(column, {"never": "seen"}) is column


def test_a_word_that_is_no_text_stays():
    """Its row is dropped later, with the reason; here it must not be taken for another, nor end the run."""
    words = pa.array([b"\xf0(", b"add"], pa.binary()).view(pa.string())
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 1], pa.int32()), words)
    got = replace_words(column, {"add": "buy"})
    assert got.dictionary.cast(pa.binary()).to_pylist() == [b"\xf0(", b"buy"] and got.indices.to_pylist() == [0, 1, 1]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_text_of_a_batch(kind):
    columns = ColumnNames.parse(["action=event"], ["surface=app"], ["action:add=buy", "surface:app=never"])
    batch = pa.record_batch({"event": pa.array(["add", "view", None]).cast(kind)})
    assert read_text(batch, "action", columns).to_pylist() == ["buy", "view", None]
    assert read_text(batch, "surface", columns).to_pylist() == ["app"] * 3  # our own word, not theirs
    assert read_text(batch.slice(0, 0), "surface", columns).to_pylist() == []

"""Topics of a vector set: text or numbers, in several files, missing for some pins."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores.errors import InputError
from stores.pin_topics import read_topics


@pytest.mark.parametrize("kind", ["text", "numbers", "dictionary"])
def test_equal_topics_share_a_number_and_the_rest_one_of_its_own(tmp_path, kind):
    topics = {"text": ["tea", "jam", None, "tea"], "numbers": [7, 3, None, 7]}.get(kind, ["tea", "jam", None, "tea"])
    column = pa.array(topics)
    column = column.dictionary_encode() if kind == "dictionary" else column
    for number, rows in enumerate(([2, 0], [3, 1])):
        table = pa.table({"pin_id": pa.array([10 * row for row in rows]), "topic": column.take(pa.array(rows))})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    tea, jam, none, tea_again, unknown = read_topics(str(tmp_path), np.array([0, 10, 20, 30, 99]))
    assert tea == tea_again and none == unknown and len({tea, jam, none}) == 3


def test_a_set_without_the_column_has_no_topics_and_no_set_is_an_error(tmp_path):
    pq.write_table(pa.table({"pin_id": [1]}), tmp_path / "a.parquet")
    assert read_topics(str(tmp_path), np.array([1])) is None
    with pytest.raises(InputError, match="--pins"):
        read_topics(str(tmp_path / "none"), np.array([1]))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match="a.parquet"):
        read_topics(str(tmp_path), np.array([1]))

"""Row counts of Parquet footers, as readers take them before they make room."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores.footers import MAX_VALUES, check_footer


class Metadata:
    """As much of a footer as is looked at: one of a file that is not there."""

    def __init__(self, says: int, groups: list[int]):
        self.num_rows, self.num_row_groups = says, len(groups)
        self._groups = groups

    def row_group(self, number: int) -> "Metadata":
        return Metadata(self._groups[number], [])


@pytest.mark.parametrize(
    ("says", "groups", "values_a_row"),
    [(0, [], 1), (0, [0, 0], 256), (7, [3, 4], 256), (MAX_VALUES, [MAX_VALUES], 1), (1 << 22, [1 << 22], 256)],
)
def test_what_can_be_is_taken(says, groups, values_a_row):
    check_footer(Metadata(says, groups), values_a_row)


@pytest.mark.parametrize(
    ("says", "groups", "values_a_row", "words"),
    [
        (8, [3, 4], 1, "its footer says 8 rows, its row groups 7"),
        (7, [], 1, "its footer says 7 rows, its row groups 0"),
        (2, [5, -3], 1, "its footer says 2 rows, its row groups 2"),  # they add up, and one is below zero
        (MAX_VALUES + 1, [MAX_VALUES + 1], 1, "1,073,741,825 rows in one row group, at most 1,073,741,824"),
        ((1 << 22) + 1, [(1 << 22) + 1], 256, "4,194,305 rows in one row group, at most 4,194,304"),
    ],
)
def test_what_cannot_be_is_refused(says, groups, values_a_row, words):
    with pytest.raises(ValueError, match=words):
        check_footer(Metadata(says, groups), values_a_row)


def test_a_real_footer(tmp_path):
    pq.write_table(pa.table({"x": range(10)}), tmp_path / "a.parquet", row_group_size=4)
    check_footer(pq.ParquetFile(tmp_path / "a.parquet").metadata)

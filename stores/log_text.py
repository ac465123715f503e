"""The text of log rows, which anybody may have written: too long, or no text at all."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.column_names import ColumnNames

# A row is shuffled in one piece of at most 1 MiB, and the histories of its user after it: half of that for its text.
MAX_TEXT_BYTES = 1 << 19
SHOWN_LETTERS = 1_000


def encode_text(column: pa.Array) -> pa.DictionaryArray:
    """Text of any of Arrow's types as a dictionary of int32 codes and `string`; bytes are not looked at.

    Raises:
        pa.ArrowInvalid: a code that stands for no word, as a damaged file has them: pyarrow does not look.
    """
    if pa.types.is_dictionary(column.type):
        ends = pc.min_max(column.indices).as_py()
        if ends["max"] is not None and not 0 <= ends["min"] <= ends["max"] < len(column.dictionary):
            raise pa.ArrowInvalid(f"codes from {ends['min']} to {ends['max']} for {len(column.dictionary)} words")
    if column.type == pa.dictionary(pa.int32(), pa.string()):
        return column
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string()).dictionary_encode().cast(pa.dictionary(pa.int32(), pa.string()))


def read_text(batch: pa.RecordBatch, ours: str, columns: ColumnNames) -> pa.DictionaryArray:
    """A text column of a batch of logs, in our words; where the file lacks it, the one word of every row.

    Raises:
        pa.ArrowInvalid: as `encode_text`.
    """
    theirs = columns.theirs(ours)
    if columns.may_lack(ours) and theirs not in batch.schema.names:
        word = pa.array([columns.value_of_absent(ours)], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(batch.num_rows, np.int32)), word)
    column, words = encode_text(batch[theirs]), columns.words(ours)
    return replace_words(column, words) if words else column


def replace_words(column: pa.DictionaryArray, words: Mapping[str, str]) -> pa.DictionaryArray:
    """The same rows with other words for some: each row once, whatever the words of the others become.

    Args:
        words: Old word -> new word.
    """
    # As bytes: what is no UTF-8 is no word of anybody's, and stays as it is.
    found = column.dictionary.cast(pa.binary())
    at = pc.index_in(found, pa.array([word.encode() for word in words], pa.binary()))
    if at.null_count == len(at):
        return column
    ours = pa.array([word.encode() for word in words.values()], pa.binary())
    changed = pc.dictionary_encode(pc.if_else(at.is_valid(), ours.take(at), found))  # two words may become one
    return pa.DictionaryArray.from_arrays(changed.indices.take(column.indices), changed.dictionary.view(pa.string()))


def is_plain(columns: Sequence[pa.DictionaryArray]) -> bool:
    """Whether no word of the dictionaries, used or not, makes a row too long or is no text: nearly always.

    Seen from the words alone, which are few; what else is here looks at rows.
    """
    longest = sum(pc.max(pc.binary_length(column.dictionary)).as_py() or 0 for column in columns)
    try:
        for column in columns:
            column.dictionary.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return longest <= MAX_TEXT_BYTES


def too_long(columns: Sequence[pa.DictionaryArray]) -> np.ndarray:
    """bool [N]: whether a row's texts have more than `MAX_TEXT_BYTES` together; null has none."""
    total = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        lengths = pc.binary_length(column.dictionary).to_numpy(zero_copy_only=False)
        total += np.append(lengths, 0)[_codes(column)].astype(np.int64)
    return total > MAX_TEXT_BYTES


def not_text(columns: Sequence[pa.DictionaryArray]) -> np.ndarray:
    """bool [N]: whether one of a row's texts is no UTF-8: Parquet does not promise it, pyarrow does not check it."""
    bad = np.zeros(len(columns[0]), bool)
    for column in columns:
        words = [not is_text(word) for word in column.dictionary.cast(pa.binary()).to_pylist()]
        bad |= np.array([*words, False])[_codes(column)]
    return bad


def is_text(value: bytes | None) -> bool:
    """Whether bytes are UTF-8, as text has to be; nothing is."""
    try:
        (value or b"").decode()
        return True
    except UnicodeDecodeError:
        return False


def _codes(column: pa.DictionaryArray) -> np.ndarray:
    """int32 [N]: codes into the dictionary, its length where a row is null."""
    return column.indices.fill_null(len(column.dictionary)).to_numpy()


def readable_text(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """The same rows with text that can be shown and kept: UTF-8, and at most `SHOWN_LETTERS` letters of each."""
    values = [
        None if value is None else value[: 4 * SHOWN_LETTERS].decode(errors="replace")[:SHOWN_LETTERS]
        for value in column.dictionary.cast(pa.binary()).to_pylist()
    ]
    plain = pa.DictionaryArray.from_arrays(column.indices, pa.array(values, pa.string()))
    return plain.dictionary_decode().dictionary_encode()


def used_text(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """The same rows with a dictionary of the words that they use, in order of their first use."""
    codes = column.indices.dictionary_encode()
    return pa.DictionaryArray.from_arrays(codes.indices, column.dictionary.take(codes.dictionary.drop_null()))


def with_used_text(rows: pa.Table, columns: Collection[str]) -> pa.Table:
    """Rows some of whose dictionary columns have no word that none of the rows uses: a file would keep those too.

    Args:
        columns: Names; those that are not there are passed over.
    """
    for number, name in enumerate(rows.schema.names):
        if name in columns:
            rows = rows.set_column(number, name, used_text(rows.column(number).combine_chunks()))
    return rows


def words_of(column: pa.DictionaryArray) -> set[str]:
    """The distinct texts of some rows, but for those that no run takes: too long, or no text."""
    words = pc.unique(column).dictionary_decode().cast(pa.binary()).to_pylist()
    return {word.decode() for word in words if word is not None and is_text(word) and len(word) <= MAX_TEXT_BYTES}

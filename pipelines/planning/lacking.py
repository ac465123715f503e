"""Columns that logs lack: said once a run, in words, and refused where the model does not know what stands for them."""

from collections.abc import Sequence

from pipelines.telemetry.lines import say
from stores.column_names import ColumnNames
from stores.errors import UsageError
from stores.logs import LogFile


def describe_lacking(files: Sequence[LogFile], columns: ColumnNames) -> list[tuple[str, str, str]]:
    """(column, how many files lack it, what every row of them has instead) of each column that some do not have."""
    lines = []
    for ours, value in columns.absent:
        count = sum(ours in file.lacking for file in files)
        if count:
            instead = "not measured in any row of them" if value is None else f"{value!r} in every row of them"
            lines.append((ours, f"not in {count:,} of {len(files):,} log files", instead))
    return lines


def refuse_unknown_words(
    files: Sequence[LogFile], columns: ColumnNames, actions: Sequence[str], surfaces: Sequence[str]
) -> None:
    """Refuses a word for an absent column that the model does not know: no row of such a file would be a token.

    Args:
        actions, surfaces: Those that the model knows.

    Raises:
        UsageError: names the file and what the model knows.
    """
    for ours, known in (("action", actions), ("surface", surfaces)):
        lacking = next((file for file in files if file.rows and ours in file.lacking), None)
        if lacking is not None and (word := columns.value_of_absent(ours)) not in known:
            raise UsageError(
                f"--absent {ours}: {lacking.path} has no such column, and the model does not know {word!r}; say "
                f"--absent {ours}=WORD with a word of its {ours}_vocabulary, {', '.join(known[:8])}, or make a model "
                f"with `pinnerformer init-model --absent {ours}`"
            )


def say_lacking(files: Sequence[LogFile], columns: ColumnNames) -> None:
    """Prints it, for a person."""
    for column, where, instead in describe_lacking(files, columns):
        say(f"{column}: {where}; {instead}")

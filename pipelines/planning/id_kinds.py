"""What the ids of a job's inputs are, numbers or strings: of one kind all through, and of the kind that a root has."""

from collections.abc import Mapping, Sequence
from typing import Any

from stores.errors import InputError
from stores.files import Root
from stores.layout import ID_FIELDS, Layout, check_asked, choose_counts, open_layout, read_layout, set_ids
from stores.logs import ID_COLUMNS, ColumnNames, LogFile
from stores.pin_vectors import VectorSet
from stores.string_ids import INT64

KIND_OF = dict(zip(ID_COLUMNS, ID_FIELDS, strict=True))  # column -> field of a layout and of a log file


def kinds_of(files: Sequence[LogFile], columns: ColumnNames) -> dict[str, str]:
    """Field of a layout -> what the ids of some log files are; nothing without a file.

    Raises:
        InputError: some have numbers and some strings; names the column and both files.
    """
    for file in files:
        for column, field in KIND_OF.items():
            mine, others = getattr(file, field), getattr(files[0], field)
            if mine != others:
                raise InputError(
                    f"{file.path}: column {columns.theirs(column)!r} is of {mine}, in {files[0].path} of {others}; "
                    "write the ids of all files as one of the two"
                )
    return {field: getattr(files[0], field) for field in ID_FIELDS} if files else {}


def refuse_other_kinds(root: Root, layout: Layout, files: Sequence[LogFile], columns: ColumnNames) -> None:
    """Refuses logs whose ids are not what those of a root are.

    Raises:
        InputError: names the file, the column and the way out.
    """
    for column, field in KIND_OF.items():
        here = getattr(layout, field)
        for file in files:
            found = getattr(file, field)
            if found != here:
                raise InputError(
                    f"{file.path}: column {columns.theirs(column)!r} is of {found}, and {root.path('layout.json')} "
                    f"says {field} {here}: what a root's first logs had is fixed with it; write the column as {here}, "
                    "or start a new --root for these logs"
                )


def check_erased_root(root: Root | None, files: Sequence[LogFile], columns: ColumnNames) -> None:
    """Refuses logs of which a root's list of erased users would name nobody, since their ids are of another kind.

    Args:
        root: Whose erased users are left out; None, or nothing has run on it: nobody is.

    Raises:
        InputError: as `refuse_other_kinds`.
    """
    layout = read_layout(root) if root is not None else None
    if root is not None and layout is not None:
        refuse_other_kinds(root, layout, files, columns)


def refuse_other_vectors(vectors: VectorSet, pin_ids: str) -> None:
    """Refuses vectors whose ids are not what the logs have.

    Raises:
        InputError: names the file, the column and the way out.
    """
    for file in vectors.files:
        if file.pin_ids != pin_ids:
            raise InputError(
                f"{file.path}: column 'pin_id' is of {file.pin_ids}, and the pins of the logs are of {pin_ids}; write "
                f"it as {pin_ids}, or give the --pins that belong to these logs"
            )


def settle_layout(
    root: Root,
    requested: Mapping[str, Any],
    files: Sequence[LogFile],
    columns: ColumnNames,
    vectors: VectorSet,
    *,
    first_rows: int,
    file_mode: str | None = None,
    released: bool,
    write: bool = True,
) -> Layout:
    """The layout of a root, of whose ids the first logs decide, and their rows of its parts; written on first use.

    Args:
        requested: What the flags say, by field name.
        first_rows: Log rows of the chain's first release: where neither root nor flags say how many parts there are.
        released: Whether the root has a release: then what its ids are is fixed, before it is not.
        write: Leave the root as it is if not.

    Raises:
        InputError: ids of another kind than the root's, than those of other files, or than the vectors' pins.
        UsageError: the root was made with other values than those asked for.
    """
    there, kinds = read_layout(root), kinds_of(files, columns)
    if there is not None and released:
        refuse_other_kinds(root, there, files, columns)
        kinds = {field: getattr(there, field) for field in ID_FIELDS}
    elif not kinds:
        kinds = {"user_ids": there.user_ids if there else INT64, "pin_ids": vectors.pin_ids}
    refuse_other_vectors(vectors, kinds["pin_ids"])
    if there is None:
        requested = {**choose_counts(first_rows, vectors.rows), **requested}
    if not write:
        if there is not None:
            check_asked(root, there, requested, file_mode)
        return there if there is not None and released else Layout(**{**(vars(there) if there else requested), **kinds})
    if there is None:
        return open_layout(root, {**requested, **kinds}, file_mode)
    set_ids(root, there, kinds)
    return open_layout(root, dict(requested), file_mode)

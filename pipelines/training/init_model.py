"""`pinnerformer init-model`: an untrained model whose vocabularies are read off the logs."""

import dataclasses
import math
from typing import Any

import pyarrow as pa

from pinnerformer_model.config import PRESETS, ModelError, preset
from pipelines.arguments import Parser, add_columns, column_names
from pipelines.telemetry.lines import say
from stores import locations
from stores.column_names import TEXT_COLUMNS, ColumnNames
from stores.errors import InputError, UsageError
from stores.log_text import read_text, words_of
from stores.logs import open_log_file, read_row_group
from stores.partitions import list_data_files, list_partitions
from stores.pin_vectors import describe_vectors
from stores.vector_sets import read_any_vectors
from stores.vector_version import read_version

DESCRIPTION = """\
Writes an untrained model: initial weights from a seed, vocabularies of actions and surfaces as the logs have them.
It finds what resembles a user's last pins and knows nothing else; `pinnerformer train` makes more of it.

--start-ridge 1 fits the weights to the vectors, as `train` begins: what all vectors have in common counts less for a
user. Vectors that `item-vectors` made, and those of texts, want it: else nearly every user gets the same answer.
"""


def read_vocabularies(logs: str, columns: ColumnNames) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The distinct actions and surfaces of all partitions, sorted.

    Raises:
        InputError: the logs cannot be read.
    """
    words: dict[str, set[str]] = {name: set() for name in TEXT_COLUMNS}
    for _, folder in sorted(list_partitions(logs).items()):
        for path in (file.path for file in list_data_files(folder)):
            for index in range(open_log_file(path, columns).num_row_groups):
                for first, batch in read_row_group(path, index, columns, TEXT_COLUMNS, batch_rows=1 << 18):
                    try:
                        for name, found in words.items():
                            found |= words_of(read_text(batch, name, columns))
                    except pa.ArrowException as error:
                        rows = f"rows {first} to {first + batch.num_rows - 1}"
                        raise InputError(f"{path}: {rows}: not understood ({error}); write them again") from None
    return tuple(sorted(words["action"])), tuple(sorted(words["surface"]))


@dataclasses.dataclass(frozen=True)
class InitModelRequest:
    """What `pinnerformer init-model` is asked for.

    Attributes:
        preset: The model's sizes.
        pins: The vector set that the model is for.
        out: A new folder for the model.
        seed: Of the random weights.
        ridge: lambda of a regression on the vectors, as `StartSettings` has it; None: weights know none of them.
    """

    preset: str
    logs: str
    pins: str
    out: str
    seed: int
    ridge: float | None
    columns: ColumnNames


def make_parser() -> Parser:
    """The flags of `pinnerformer init-model`."""
    parser = Parser(prog="pinnerformer init-model", description=DESCRIPTION)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small", help="sizes")
    parser.add_argument("--logs", required=True, metavar="DIR", help="engagement logs: where the vocabularies are read")
    parser.add_argument("--pins", metavar="DIR", help="PinSage vectors the model is for (default pins beside --logs)")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder for the model")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    text = "fit the weights to the vectors, with this lambda: 1 (default not fitted)"
    parser.add_argument("--start-ridge", type=float, metavar="X", help=text)
    add_columns(parser)
    return parser


def parse(argv: list[str]) -> InitModelRequest:
    """Reads the flags of `pinnerformer init-model`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    ridge = found.start_ridge
    if ridge is not None and not 0 < ridge < math.inf:
        raise UsageError(f"--start-ridge {ridge:g}: must be positive; 1 does for most vectors")
    pins = found.pins or locations.join(locations.parent(found.logs), "pins")
    return InitModelRequest(found.preset, found.logs, pins, found.out, found.seed, ridge, column_names(found))


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    # They bring torch, which no --help waits for.
    from pinnerformer_model.checkpoint import new_model, save_model
    from pinnerformer_model.initialisation import StartSettings

    actions, surfaces = read_vocabularies(request.logs, request.columns)
    if not actions or not surfaces:
        raise InputError(f"--logs {request.logs}: no row with an action and a surface in it; nothing to model")
    options: dict[str, Any] = {"action_vocabulary": actions, "surface_vocabulary": surfaces}
    try:
        version = read_version(request.pins)
        width = describe_vectors(request.pins, version, columns=request.columns).width
        config = preset(request.preset, pinsage_version=version, pin_vector_dim=width, **options)
        vectors, settings = None, StartSettings()
        if request.ridge is not None:
            vectors = read_any_vectors(request.pins, "--pins", request.columns).vectors
            settings = StartSettings(ridge=request.ridge)
        digest = save_model(request.out, config, *new_model(config, request.seed, vectors, settings))
    except ModelError as error:
        raise UsageError(f"--out {request.out}: {error}") from None
    for column, word in request.columns.absent:
        if word in options.get(f"{column}_vocabulary", ()):
            say(f"{column}: {word!r} where the logs have none")
    words = f"{len(actions)} actions, {len(surfaces)} surfaces"
    print(f"{request.out}: {request.preset}, {words}, vectors of {width} numbers, digest {digest[:12]}")
    return 0

"""`pinnerformer init`: writes `pinnerformer.yaml` with comments, by asking and by looking at the data."""

import dataclasses
import os
import sys
from collections.abc import Callable

from pipelines.arguments import Parser
from pipelines.configuration.template import Answers, write_template
from pipelines.configuration.yaml_file import FILE_NAME
from stores.errors import UsageError
from stores.kv_urls import FORMS, without_password
from stores.local_files import replace_atomically

DESCRIPTION = """\
Writes a file of flags, pinnerformer.yaml, with a comment to each: what every command then reads, so that a night is
`pinnerformer daily --date yesterday`. Logs and vectors that are named are looked at: days, names of columns, what is
missing. On a terminal, what no flag says is asked for. Nothing else is written.
"""

EPILOG = """\
examples:
  pinnerformer init                                                  # asks
  pinnerformer init --logs WORLD/logs --pins WORLD/pins --kv redis://kv.internal:6379/0 < /dev/null
"""

Ask = Callable[[str], str]  # a question -> the answer


@dataclasses.dataclass(frozen=True)
class InitRequest:
    """What `pinnerformer init` is asked for.

    Attributes:
        file: To write.
        force: Whether one that is there is written over.
        given: What flags say; None of those that they do not.
    """

    file: str
    force: bool
    given: Answers


# Field of `Answers` -> what to ask, and what nothing typed stands for.
QUESTIONS = {
    "logs": ("engagement logs, a folder with ds=YYYY-MM-DD/*.parquet", ""),
    "pins": ("vectors of the pins, a folder with *.parquet and version.json; none yet: leave it empty", ""),
    "model": ("the model's folder, to be made if there is none yet", "model"),
    "root": ("a folder for all that the job owns", "root"),
    "kv": (f"the key-value store to publish to, {', '.join(FORMS)} or env:NAME", "lmdb://kv"),
}


def make_parser() -> Parser:
    """The flags of `pinnerformer init`."""
    parser = Parser(prog="pinnerformer init", description=DESCRIPTION, epilog=EPILOG, configurable=False)
    parser.add_argument("--config", metavar="FILE", default=FILE_NAME, help="what to write")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.add_argument("--logs", metavar="DIR", help="engagement logs, ds=YYYY-MM-DD/*.parquet: looked at")
    parser.add_argument("--pins", metavar="DIR", help="PinSage vectors, *.parquet and version.json: looked at")
    parser.add_argument("--model", metavar="DIR", help="where the model lies, or will (default model)")
    parser.add_argument("--root", metavar="DIR", help="all that the job owns (default root)")
    parser.add_argument("--kv", metavar="URL", help="where to publish (default lmdb://kv, a folder beside the file)")
    return parser


def parse(argv: list[str]) -> InitRequest:
    """Reads the flags of `pinnerformer init`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    if found.kv and without_password(found.kv) != found.kv:
        raise UsageError(
            "--kv: a password has no place in a file; put the URL into an environment variable, and say --kv env:NAME"
        )
    given = Answers(found.logs, found.pins, found.model, found.root, found.kv)
    return InitRequest(found.config, found.force, given)


def ask_for(given: Answers, ask: Ask) -> Answers:
    """What flags say, and for the rest what is answered.

    Raises:
        UsageError: the answers ended.
    """
    answers = dataclasses.asdict(given)
    for name, (question, default) in QUESTIONS.items():
        if answers[name] is None:
            try:
                answers[name] = ask(f"{question}{f' [{default}]' if default else ''}: ").strip() or default
            except EOFError:
                raise UsageError(f"no answer to: {question}; say --{name}") from None
    return Answers(**answers)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code.

    Raises:
        UsageError: the file is there. InputError: what is named is not what it should be.
    """
    request = parse(argv)
    if os.path.lexists(request.file) and not request.force:
        raise UsageError(f"{request.file}: is there already; change it, name another with --config, or --force")
    answers = request.given
    if sys.stdin.isatty() and sys.stdout.isatty():
        answers = ask_for(answers, input)
    text, next_steps = write_template(answers, request.file)
    with replace_atomically(os.path.abspath(request.file)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    print("\n".join([f"{request.file} is written; what it is in force for: pinnerformer config", *next_steps]))
    return 0

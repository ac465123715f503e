"""What the commands have in common on their command lines: the parser, the flags that several have, kinds of values.

Every command turns its flags into one frozen request, in a function `parse(argv)` beside its parser; what argparse
makes of them goes no further.
"""

import argparse
import datetime
import difflib
import re
import sys
from collections.abc import Collection, Sequence

from stores.column_names import MAY_BE_ABSENT, UNKNOWN, ColumnNames
from stores.errors import UsageError
from stores.kv_urls import FORMS

Flags = argparse._ActionsContainer  # a parser, or a group of its flags

# Flags that mean the same in every command that has them, but where its parser says `own`: at the top of
# `pinnerformer.yaml` they stand for all of these commands.
SHARED = frozenset(
    {
        *("root", "kv", "namespace", "logs", "pins", "model", "quiet"),
        *("column", "absent", "value", "lookback", "min-age", "max-clock-skew", "day-offset", "bootstrap-from"),
        *("max-history-days", "max-idle-days", "refresh-days"),
        *("user-buckets", "pin-shards", "history-length", "file-mode"),
        *("log-format", "metrics-file", "notify", "openlineage"),
        *("device", "embed-accelerator", "embed-ram", "token-budget", "index-m", "index-ef-construction", "gates"),
    }
)


# Commands that work, or look whether all is well: what they come to is told to those who do not watch them.
TOLD = frozenset(
    {
        *("daily", "backfill", "repair", "release", "rollback", "rebucket", "erase", "gc", "verify", "status"),
        *("item-vectors", "training-data", "train", "evaluate", "study", "import", "export"),
    }
)


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that says the default of every flag that may be left out and takes a value, in one form: `(default 64)`.

    A default that is found out later is said by the flag's own help, in the same form: `(default CURRENT)`.
    """

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return help_with_default(action)


def help_with_default(action: argparse.Action) -> str | None:
    """A flag's help and its default; `none` where nothing is taken for it."""
    text = action.help and action.help.replace("(default: ", "(default ")
    alone = action.nargs == 0 or action.required or not action.option_strings
    if not text or text == argparse.SUPPRESS or alone or "(default " in text:
        return text
    return f"{text} (default {'none' if action.default in (None, []) else '%(default)s'})"


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError` instead of ending the process, and takes no abbreviations.

    Attributes:
        takes_beam: Whether Beam's own flags may stand beside ours.
        own: Flags of a name in `SHARED` by which this command means something of its own: only its section gives them.
    """

    def __init__(self, *args, takes_beam: bool = False, own: Collection[str] = (), configurable: bool = True, **kwargs):
        kwargs.setdefault("formatter_class", Help)
        kwargs["allow_abbrev"] = False
        super().__init__(*args, **kwargs)
        self.takes_beam, self.own = takes_beam, frozenset(own)
        if configurable and self.prog.startswith("pinnerformer "):
            # Read, and taken out of the words, by `pipelines.configuration` before a command's parser sees them.
            text = "every flag may stand in it; none: no file (default pinnerformer.yaml, where there is one)"
            self.add_argument("--config", metavar="FILE", help=text)
            add_told(self, everything=self.prog.split()[1] in TOLD)

    def error(self, message: str):
        raise UsageError(f"{message}; see {self.prog} --help")

    def parse_args(self, args=None, namespace=None):
        """As argparse does it, but an unknown flag is named before one that is missing."""
        self.refuse_unknown(sys.argv[1:] if args is None else args)
        return super().parse_args(args, namespace)

    def refuse_unknown(self, words: Sequence[str], others: Collection[str] = ()) -> None:
        """Names the first flag that nobody knows: argparse would complain of the missing ones first.

        Args:
            words: Of the command line.
            others: Flags that somebody else takes.

        Raises:
            UsageError: with the nearest flag that there is.
        """
        if {"-h", "--help"} & set(words):  # whoever asks is answered
            return
        known = {flag: action for action in self._actions for flag in action.option_strings}
        for word in words:
            name = word.partition("=")[0]
            if name == "--":
                return
            if not name.startswith("--") or " " in name or name in known or name in others:
                continue
            shown = [flag for flag, action in known.items() if action.help != argparse.SUPPRESS]
            near = difflib.get_close_matches(name, shown, n=1)
            near = near or difflib.get_close_matches(name, others, n=1, cutoff=0.8)  # many: something is always near
            hint = f"did you mean {near[0]}? See" if near else "see"
            raise UsageError(f"unknown flag {name}; {hint} {self.prog} --help")


def add_told(parser: argparse.ArgumentParser, *, everything: bool) -> None:
    """Adds the flags that say whom a command tells what it does; `pipelines.telemetry` reads them, no command does.

    Args:
        everything: Those of commands that work too; else `--log-format` alone.
    """
    told = parser.add_argument_group("whom it tells")
    text = "of stderr: text, or one JSON object a line"
    told.add_argument("--log-format", choices=("text", "json"), default="text", help=text)
    if not everything:
        return
    text = "write metrics for the node exporter's collector of text files, e.g. /var/lib/node_exporter/night.prom"
    told.add_argument("--metrics-file", metavar="FILE", help=text)
    text = "POST a JSON object there when it is refused or fails; env:NAME if the URL is a secret; may be repeated"
    told.add_argument("--notify", action="append", default=[], metavar="URL", help=text)
    text = "add OpenLineage's events of start and end to a file, or send them to http(s)://HOST (extra `openlineage`)"
    told.add_argument("--openlineage", metavar="FILE", help=text)


def add_root(
    flags: Flags, text: str = "a folder, s3:// or gs://: all that the job owns", *, required: bool = True
) -> None:
    """Adds `--root`."""
    flags.add_argument("--root", required=required, metavar="DIR", help=text)


def add_roots(flags: Flags, text: str) -> None:
    """Adds `--root` for one root or several."""
    flags.add_argument("--root", required=True, action="append", metavar="DIR", help=text)


KV = f"{', '.join(FORMS)}; env:NAME if the URL, with its password, is in an environment variable"


def add_store(flags: Flags, *, required: bool = False) -> None:
    """Adds `--kv` for one store, and `--namespace`."""
    flags.add_argument("--kv", required=required, metavar="URL", help=KV)
    _add_namespace(flags)


def add_stores(flags: Flags) -> None:
    """Adds `--kv` for any number of stores, and `--namespace`."""
    flags.add_argument("--kv", action="append", default=[], metavar="URL", help=f"may be repeated; {KV}")
    _add_namespace(flags)


def _add_namespace(flags: Flags) -> None:
    flags.add_argument("--namespace", default="pinnerformer", metavar="NAME", help="first part of every key")


def add_publish(flags: Flags, where: str = "store", without: str = "commit only") -> None:
    """Adds `--publish`.

    Args:
        where: The value that stands for publishing.
        without: What `none` does.
    """
    text = f"none: {without}"
    flags.add_argument("--publish", choices=(where, "none"), default=where, help=text)


def add_columns(flags: Flags) -> None:
    """Adds `--column`, `--absent` and `--value`, for logs and vectors that call things otherwise."""
    add_names(flags)
    text = (
        f"logs need not have this column ({', '.join(MAY_BE_ABSENT)}): no duration was measured, action or surface is "
        f"WORD in every row ({UNKNOWN}); may be repeated"
    )
    flags.add_argument("--absent", action="append", default=[], metavar="COLUMN[=WORD]", help=text)
    text = "an action or a surface that your logs call otherwise, e.g. action:purchase=buy; may be repeated"
    flags.add_argument("--value", action="append", default=[], metavar="COLUMN:THEIRS=OURS", help=text)


def add_names(flags: Flags) -> None:
    """Adds `--column` alone, for a command that reads no logs."""
    text = (
        "a column that your logs or vectors call otherwise, e.g. pin_id=sku, vector=embedding; "
        "pins.pin_id=NAME where the vectors have a name of their own; may be repeated"
    )
    flags.add_argument("--column", action="append", default=[], metavar="OURS=THEIRS", help=text)


def column_names(found: argparse.Namespace) -> ColumnNames:
    """What the flags of `add_columns` say.

    Raises:
        UsageError: not of their form.
    """
    return ColumnNames.parse(found.column, found.absent, found.value)


def add_json(flags: Flags) -> None:
    """Adds `--json`."""
    flags.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_quiet(flags: Flags, text: str = "no progress display, no summary") -> None:
    """Adds `--quiet`."""
    flags.add_argument("--quiet", action="store_true", help=text)


def add_min_age(flags: Flags) -> None:
    """Adds `--min-age`."""
    text = "how long a partition without _SUCCESS must have been left alone"
    flags.add_argument("--min-age", type=seconds, default="6h", metavar="6h", help=text)


def add_lookback(flags: Flags, text: str = "partitions searched for late files") -> None:
    """Adds `--lookback`."""
    flags.add_argument("--lookback", type=int, default=7, metavar="DAYS", help=text)


def add_day_flags(flags: Flags) -> None:
    """Adds `--max-clock-skew` and `--day-offset`, which say what moments the day of a partition has."""
    flags.add_argument(
        "--max-clock-skew",
        type=clock_skew,
        default=0,
        metavar="SECONDS",
        help="take rows so far past the end of their partition's day",
    )
    flags.add_argument(
        "--day-offset",
        type=utc_offset,
        default=0,
        metavar="HOURS",
        help="of the zone whose days the partitions are, from UTC: -8 where a day begins at 08:00 UTC",
    )


def date(text: str) -> datetime.date:
    """A flag's `YYYY-MM-DD`."""
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date; write YYYY-MM-DD") from None


def night(text: str) -> datetime.date:
    """A flag's `YYYY-MM-DD`, or `yesterday`, by UTC."""
    if text == "yesterday":
        return datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(1)
    try:
        return date(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date; write YYYY-MM-DD, or yesterday") from None


def seconds(text: str) -> float:
    """A flag's duration, `90s`, `15m`, `30h` or `2d`, in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write 90s, 15m, 30h or 2d")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def clock_skew(text: str) -> int:
    """A flag's whole seconds of less than a day: `120`, `120s` or `2m`."""
    value = float(text) if text.isdecimal() else seconds(text)
    if value != int(value) or value >= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds below a day; write 120 or 2m")
    return int(value)


def utc_offset(text: str) -> int:
    """A flag's distance of a time zone from UTC, in seconds: `-8`, `-8h`, `-08:00`, `5.5` or `+05:30`."""
    match = re.fullmatch(r"([+-]?)(\d{1,2})(?::(\d{2})|(\.\d+))?h?", text)
    hours = float(f"{match[2]}{match[4] or ''}") + int(match[3] or 0) / 60 if match else 99.0
    found = round(hours * 3600)
    if hours > 14 or found % 60:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no distance from UTC of at most 14 h; write -8 for UTC-8, 5.5 for UTC+5:30"
        )
    return -found if match and match[1] == "-" else found


def positive(text: str) -> int:
    """A flag's whole number > 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def share(text: str) -> float:
    """A flag's number in [0, 1)."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share in [0, 1)")
    return value

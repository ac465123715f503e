"""The pages of the reference, made of the code: every command's flags, keys of files, counters, gates.

Each function gives the Markdown of one page. Nothing of them is kept in the repository, so none can be behind.
"""

import argparse
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Sequence

from pipelines.arguments import SHARED, help_with_default
from pipelines.cli import GROUPS
from pipelines.configuration.flags import SECTIONS_OF
from pipelines.configuration.parsers import UNCONFIGURED, all_parsers
from pipelines.configuration.values import flag_of
from stores.files import FileEntry
from stores.layout import Layout
from stores.manifests import DIGEST, Manifest
from stores.names import Counter, Step
from transforms.gates import GATES
from transforms.gates.gate import Gate
from website import meanings

TABLE_BREAK = str.maketrans({"|": "\\|", "\n": " "})


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; whatever stands in a cell stays in it."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.translate(TABLE_BREAK) for cell in line)} |" for line in lines) + "\n"


def code(text: str) -> str:
    """Text as code, in one line."""
    return f"`{text}`" if text else ""


def plain(text: str) -> str:
    """Prose whose `<`, `*` and `_` are meant as they stand; what is in backquotes is code and left alone."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([<*_\[\]])", r"\\\1", part) for part in parts)


def flags_in(parser: argparse.ArgumentParser) -> list[tuple[str, list[argparse.Action]]]:
    """(heading, its flags) as `--help` groups them; what `--help` does not show is left out."""
    groups = [
        (group.title or "", [a for a in group._group_actions if a.help != argparse.SUPPRESS])
        for group in parser._action_groups
    ]
    return [(title, actions) for title, actions in groups if actions]


def _value(action: argparse.Action) -> str:
    """What a flag takes, as its help shows it."""
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        return ", ".join(code(str(choice)) for choice in action.choices)
    return code(str(action.metavar or action.dest.upper().replace("_", "-")))


def _says(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = (help_with_default(action) or "") % {**vars(action), "prog": parser.prog}
    return f"{plain(text)}; required" if action.required and action.option_strings else plain(text)


def _flag_rows(parser: argparse.ArgumentParser, actions: Iterable[argparse.Action]) -> list[list[str]]:
    return [[code(flag_of(a) or str(a.metavar or a.dest)), _value(a), _says(parser, a)] for a in actions]


def _command(name: str, line: str) -> str:
    parser = all_parsers()[name]
    parts = [f"## {name}\n\n{line[0].upper()}{line[1:]}.\n"]
    description = (parser.description or "").strip()
    if description:
        parts.append("".join(f"{plain(paragraph)}\n\n" for paragraph in re.split(r"\n\s*\n", description)))
    for title, actions in flags_in(parser):
        shown = [action for action in actions if flag_of(action) not in ("--help", "--config")]
        if shown:
            heading = "" if title in ("options", "positional arguments") else f"**{plain(title)}**\n\n"
            parts.append(heading + table(["flag", "takes", "what it does"], _flag_rows(parser, shown)))
    if parser.takes_beam:
        parts.append("Beam's own options stand beside these ([runners](../runners.md)).\n")
    if parser.epilog:
        parts.append(f"```text\n{inspect.cleandoc(parser.epilog % {'prog': parser.prog})}\n```\n")
    return "\n".join(parts)


def commands_page() -> str:
    """Every command and every flag of it."""
    head = (
        "# Commands and flags\n\nWhat `pinnerformer COMMAND --help` says, on one page. Every command takes `--help`; "
        "all but `config` and `completion` take `--config FILE` ([flags in a file](../configuration.md)).\n\n"
    )
    parts = [
        table(["command", "what it does"], [[f"[{name}](#{name})", line] for name, (_, line) in commands.items()])
        for commands in GROUPS.values()
    ]
    titles = [f"**{title[0].upper()}{title[1:]}**\n\n" for title in GROUPS]
    lists = "\n".join(title + part for title, part in zip(titles, parts, strict=True))
    bodies = [_command(name, line) for commands in GROUPS.values() for name, (_, line) in commands.items()]
    return head + lists + "\n" + "\n".join(bodies)


def configuration_page() -> str:
    """Every key of pinnerformer.yaml, where it may stand, and for which commands."""
    known: dict[str, tuple[set[str], set[str]]] = {}
    for name, parser in all_parsers().items():
        if name in UNCONFIGURED:
            continue
        for action in (a for _, actions in flags_in(parser) for a in actions):
            key = flag_of(action)[2:]
            if key and key not in ("help", "config"):
                top = key in SHARED and key not in parser.own
                known.setdefault(key, (set(), set()))[0 if top else 1].add(name)
    rows = [
        [code(key), ", ".join(sorted(top)), ", ".join(sorted(section))] for key, (top, section) in sorted(known.items())
    ]
    sections = "; ".join(
        f"`{name}` reads {' and then '.join(code(section) for section in found)}" for name, found in SECTIONS_OF.items()
    )
    return (
        "# Keys of pinnerformer.yaml\n\nA key is a flag without its dashes; in the environment `min-age` is "
        "`PINNERFORMER_MIN_AGE`, and `PINNERFORMER_DAILY_MIN_AGE` for one command. How values are written, and what "
        f"comes before what: [flags in a file](../configuration.md). Of sections, {sections}. What a key does "
        "stands with its [command](commands.md).\n\n"
        + table(["key", "at the top of the file, for", "in the section of"], rows)
    )


def attributes_of(kind: type) -> dict[str, str]:
    """Name -> what the docstring's `Attributes:` says of it."""
    text = inspect.getdoc(kind) or ""
    section = text.partition("\nAttributes:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if head := re.match(r"    ((?:\w+, )*\w+): (.*)", line):
            names = head[1].split(", ")
            found.update(dict.fromkeys(names, head[2]))
        else:
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found


def _field_rows(kind: type, leave_out: Iterable[str] = ()) -> list[list[str]]:
    said = attributes_of(kind)
    names = [field.name for field in dataclasses.fields(kind) if field.name not in leave_out]
    return [[code(name), plain(said[name])] for name in names]


def _meaning_rows(found: dict[str, str]) -> list[list[str]]:
    return [[code(name), plain(text)] for name, text in found.items()]


def manifest_page() -> str:
    """Every key of a manifest."""
    inside = ("extra", "extra_of_files")  # of the class, not of the file
    top = [*_field_rows(Manifest, inside), [code(DIGEST), "sha256 of the rest of the file, last in it"]]
    heads = ["key", "what it is"]
    return "\n".join(
        [
            "# Manifest\n\n`ROOT/releases/<release>/manifest.json`: everything a release consists of "
            "([design](../design.md)). Keys stay; a newer version's are kept by an older one that does not know them.",
            f"\n## The file\n\n{table(heads, top)}",
            f"## A file of a table\n\n{table(heads, _field_rows(FileEntry))}",
            f"## `settings`\n\n{table(heads, _meaning_rows(meanings.SETTINGS))}",
            f"## `settings.layout`\n\n{table(heads, _field_rows(Layout))}",
            f"## A gate\n\n{table(heads, _field_rows(Gate))}",
            f"## `statistics`\n\n{table(heads, _meaning_rows(meanings.STATISTICS))}",
            "`counters` and `timings` are by step: [steps and counters](counters.md).\n",
        ]
    )


def counters_page() -> str:
    """Every step and every counter."""
    steps = [[code(step), plain(meanings.STEPS[step])] for step in Step]
    counters = [[code(counter), plain(meanings.COUNTERS[counter])] for counter in Counter]
    return (
        "# Steps and counters\n\nUnder `counters` of a [manifest](manifest.md), step by step; under `timings` the "
        "seconds of work of each step, summed over workers. An engine's dashboard has them by the same names.\n\n"
        f"## Steps\n\n{table(['step', 'what it does'], steps)}\n"
        f"## Counters\n\n{table(['counter', 'what is counted'], counters)}"
    )


def gates_page() -> str:
    """Every gate with its limit, and every number that a file of limits may have."""
    rows = [
        [
            code(gate.name),
            plain(gate.closes_when),
            f"{'>=' if gate.at_least else '<='} "
            f"{gate.limit if isinstance(gate.limit, int) else f'{gate.limit.default:g}'}",
            plain(gate.advice),
        ]
        for gate in GATES
    ]
    limits = {t.name: [code(t.name), f"{t.default:g}", plain(t.reads)] for gate in GATES for t in gate.thresholds}
    return (
        "# Gates and their limits\n\nIn the order in which they are checked. The name is what `--force-gate` takes. "
        "Why each is there, what it cannot see and how to force one: [gates](../gates.md).\n\n"
        f"## Gates\n\n{table(['gate', 'closes when', 'allowed', 'where to look'], rows)}\n"
        "## Limits\n\nKeys of the file that `daily --gates FILE` takes.\n\n"
        f"{table(['key', 'default', 'what it is'], limits.values())}"
    )


def dead_letters_page() -> str:
    """Every reason for which a row is dropped."""
    rows = _meaning_rows(meanings.REASONS | meanings.COLLISIONS)
    return (
        "# Dead letters\n\nLog rows that cannot be used, kept with the release as Parquet under "
        "`ROOT/releases/<release>/dead_letters/`, each with its file, row and reason; the first of these that holds. "
        "Too many close the gate `rows_dropped_share`: "
        "[what to type](../operations.md#too-many-rows-went-to-the-dead-letters).\n\n"
        f"{table(['reason', 'what it means'], rows)}"
    )


API = """# Python

What `pinnerformer` gives a program: lookups for rankers, retrieval for candidate generation.

::: stores.embedding_client.EmbeddingClient

::: stores.retriever.Retriever
"""

PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands_page,
    "reference/configuration.md": configuration_page,
    "reference/manifest.md": manifest_page,
    "reference/counters.md": counters_page,
    "reference/gates.md": gates_page,
    "reference/dead-letters.md": dead_letters_page,
    "reference/api.md": lambda: API,
}

"""The table that `make bench` ends with, from the figures that the benchmarks left.

    .venv/bin/python -m benchmarks.table FOLDER [--write docs/benchmarks.md]

`--write` puts it between the two comments of a page that say where it stands.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys

import psutil

from benchmarks.records import Figure, read_figures, shown

BEGIN, END = "<!-- table of make bench: begin -->", "<!-- table of make bench: end -->"
PACKAGES = ("torch", "numpy", "pyarrow", "apache-beam", "hnswlib", "lmdb", "redis")
MACHINE = "machine.json"


def describe_machine(peers: dict[str, str]) -> dict[str, str]:
    """What the figures depend on: machine, versions, commit.

    Args:
        peers: Name -> version, of what was compared with.
    """
    cpu = platform.processor() or platform.machine()
    flags = ""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
        fields = {name.strip(): value.strip() for name, value in lines.items()}
        cpu = fields.get("model name", cpu)
        flags = next((f", {name}" for name in ("avx512f", "avx2") if name in fields.get("flags", "").split()), "")
    versions = {name: importlib.metadata.version(name) for name in PACKAGES} | peers
    git = subprocess.run(["git", "log", "-1", "--format=%h of %cs"], capture_output=True, text=True)
    return {
        "machine": f"{cpu}{flags}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "commit": git.stdout.strip() or "unknown",
    }


def format_table(figures: list[Figure], facts: dict[str, str]) -> str:
    """Markdown: a table of the facts, then one of the figures, a row each, by benchmark."""
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]
    lines += ["", "| benchmark | what | found | to be | |", "|---|---|---|---|---|"]
    for figure in figures:
        found = f"**{shown(figure)}**" + (f" ({figure.note})" if figure.note else "")
        mark = {None: "", True: "yes", False: "**no**"}[figure.reached]
        lines.append(f"| {figure.benchmark} | {figure.what} | {found} | {figure.goal} | {mark} |")
    return "\n".join(lines)


def replace_table(page: str, table: str) -> str:
    """A page with the table in the place of the one that stands there.

    Raises:
        ValueError: the page has no such place.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} with {END} after it")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where the figures are")
    parser.add_argument("--write", metavar="PAGE", help="put the table into this page")
    arguments = parser.parse_args()
    with open(f"{arguments.folder}/{MACHINE}") as file:
        facts = json.load(file)
    table = format_table(read_figures(arguments.folder), facts)
    print(table)
    if arguments.write:
        with open(arguments.write) as file:
            page = replace_table(file.read(), table)
        with open(arguments.write, "w") as file:
            file.write(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())

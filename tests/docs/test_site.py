"""The site: its reference has all that the code has, its pages link as the files do, and nothing is forgotten."""

import argparse
import os
import re

import pytest
import yaml

from pipelines.arguments import SHARED
from pipelines.cli import COMMANDS
from pipelines.configuration.flags import BEAM
from pipelines.configuration.parsers import UNCONFIGURED, all_parsers
from stores.manifests import DIGEST
from stores.names import Counter, Step
from tests.docs.test_prose import PAGES, read
from transforms.gates import GATES
from transforms.read_logs import REASONS
from website import diagrams, meanings, reference
from website.hooks import OUTSIDE, move_links


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose `!!python` tags name functions of MkDocs' extensions."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def flags_of(command: str) -> set[str]:
    actions = all_parsers()[command]._actions
    return {a.option_strings[-1] for a in actions if a.option_strings and a.help != argparse.SUPPRESS}


def sections(page: str) -> dict[str, str]:
    """Heading -> what stands below it."""
    parts = re.split(r"^## (.+)\n", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def first_cells(page: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)


def test_every_flag_of_every_command_is_there():
    found = sections(reference.commands_page())
    assert set(found) == set(COMMANDS)
    for command, section in found.items():
        flags = {cell for cell in first_cells(section) if cell.startswith("--")}
        assert flags == flags_of(command) - {"--help", "--config"}, command


def test_every_key_of_the_file_of_flags_is_there():
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]*) \| ([^|]*) \|", reference.configuration_page(), re.MULTILINE)
    found = {(key, command) for key, *where in rows for cell in where for command in cell.split(", ") if command}
    assert found == {
        (flag[2:], command)
        for command in COMMANDS
        if command not in UNCONFIGURED
        for flag in flags_of(command) - {"--help", "--config"}
    }
    top = {key for key, shared, _ in rows if shared.strip()}
    assert top == SHARED and BEAM not in top


def test_every_key_of_a_manifest_is_there(one_night):
    """Of one that a night wrote; what depends on flags and commands is there too."""
    import json

    _, root = one_night
    with open(f"{root}/releases/2026-11-01/manifest.json") as file:
        manifest = json.load(file)
    found = {title: set(first_cells(text)) for title, text in sections(reference.manifest_page()).items()}
    assert set(manifest) == found["The file"] and DIGEST in manifest
    assert set(manifest["settings"]) <= found["`settings`"] == set(meanings.SETTINGS)
    assert set(manifest["settings"]["layout"]) <= found["`settings.layout`"]
    assert set(manifest["statistics"]) <= found["`statistics`"] == set(meanings.STATISTICS)
    entries = [entry for entries in manifest["tables"].values() for entry in entries]
    assert set(entries[0]) == found["A file of a table"]
    assert set(manifest["gates"][0]) <= found["A gate"]
    counted = {name for counts in manifest["counters"].values() for name in counts}
    known = set(first_cells(reference.counters_page()))
    assert {name for name in counted if not name.startswith("dropped_")} <= known


def test_every_step_counter_gate_and_reason_is_there():
    assert set(meanings.STEPS) == set(Step) and set(meanings.COUNTERS) == set(Counter)
    assert first_cells(reference.counters_page()) == [*Step, *Counter]
    assert list(meanings.REASONS) == list(REASONS)
    assert set(first_cells(reference.dead_letters_page())) == {*REASONS, *meanings.COLLISIONS}
    cells = first_cells(reference.gates_page())
    assert cells == [*(g.name for g in GATES), *dict.fromkeys(t.name for g in GATES for t in g.thresholds)]


@pytest.mark.parametrize("name", reference.PAGES)
def test_tables_have_as_many_cells_in_every_row(name):
    for block in re.findall(r"(?:^\|.*\n)+", reference.PAGES[name](), re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block[:200]


def test_every_page_is_in_the_navigation():
    with open("mkdocs.yml") as file:
        nav = yaml.load(file, Loader)["nav"]

    def leaves(entry):
        if isinstance(entry, str):
            return [entry]
        inside = entry.values() if isinstance(entry, dict) else entry
        return [leaf for one in inside for leaf in leaves(one)]

    pages = [page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")]
    assert sorted(leaves(nav)) == sorted([*pages, *OUTSIDE, *reference.PAGES])
    outside = {page for page in PAGES if not page.startswith("docs/")}
    assert outside == set(OUTSIDE.values())


@pytest.mark.parametrize(
    ("file", "page", "text", "moved"),
    [
        ("README.md", "index.md", "[a](docs/gates.md#b)", "[a](gates.md#b)"),
        ("README.md", "index.md", "[a](deploy/README.md)", "[a](deploy/README.md)"),
        ("docs/gates.md", "gates.md", "[a](../deploy/gates.yaml)", "[a](reference/gates.md#limits)"),
        ("docs/gates.md", "gates.md", "[a](../README.md#x)", "[a](index.md#x)"),
        ("deploy/kubernetes/README.md", "deploy/kubernetes.md", "[a](../../docs/scale.md)", "[a](../scale.md)"),
        ("README.md", "index.md", "```\n[a](docs/gates.md)\n```", "```\n[a](docs/gates.md)\n```"),
        ("README.md", "index.md", "[a](https://a.example/b) [c](#d)", "[a](https://a.example/b) [c](#d)"),
    ],
)
def test_links_are_moved(file, page, text, moved):
    assert move_links(text, file, page) == moved


def test_every_diagram_has_its_picture_and_no_picture_is_left_over():
    wanted = {diagrams.name_of(source) for page in PAGES for source in diagrams.sources(read(page))}
    assert len(wanted) > 2
    assert set(os.listdir(diagrams.FOLDER)) == wanted, "python -m website.diagrams --help"
    assert all("</svg>" in read(f"{diagrams.FOLDER}/{name}") for name in wanted)


def test_a_diagram_becomes_a_picture():
    text = "a\n\n```mermaid\nflowchart LR\n    a[(logs)] --> b[read, write]\n```\nb\n"
    (source,) = diagrams.sources(text)
    assert diagrams.show(text, "../diagrams") == (
        f"a\n\n![Diagram: logs; read, write](../diagrams/{diagrams.name_of(source)}){{ .diagram }}\nb\n"
    )


def test_the_site_asks_no_other_machine():
    with open("mkdocs.yml") as file:
        asked = yaml.load(file, Loader)
    assert asked["theme"]["font"] is False and "extra_javascript" not in asked
    assert not re.search(r"url\(|@import", read("docs/site.css"))

"""The pages: lines that a person reads, links that lead somewhere, one word for one thing."""

import os
import re
import subprocess
from collections.abc import Iterator

import pytest

WIDTH = 110  # columns of prose; code and tables cannot be broken
GLOSSARY = "docs/glossary.md"
CHANGELOG = "CHANGELOG.md"

# Words that another one stands for by now -> the pages that may say them: those that say what has changed.
GONE: dict[str, set[str]] = {
    r"\banew\b": set(),
    r"\bfor ever\b": set(),
    r"\bdear(er|est)?\b": set(),
    r"\bbears? on\b": set(),
    r"\bh[eo]ld against\b": set(),
    r"\bPINNED\b": {CHANGELOG},
    r"--unpin\b": {CHANGELOG},
    r"\b[uU]npin": {CHANGELOG},
    r"\bpinned\b": {CHANGELOG},
}


def list_pages() -> list[str]:
    """Every Markdown file of the project, also one that is not committed yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [page for page in found if os.path.exists(page)]


PAGES = list_pages()


def read(page: str) -> str:
    with open(page) as file:
        return file.read()


def outside_fences(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) of what is not code."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            yield number, line


def too_long(text: str) -> list[int]:
    """Numbers of the lines of prose that are too long."""
    return [n for n, line in outside_fences(text) if len(line) > WIDTH and not line.lstrip().startswith("|")]


def links(text: str) -> list[str]:
    """Where the links and pictures of a page lead; a link's words may be cut by a line's end."""
    prose = "\n".join(line for _, line in outside_fences(text))
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for _, line in outside_fences(text):
        if heading := re.match(r"#+ +(.+?)\s*$", line):
            slug = re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-")
            found.add(slug if slug not in found else f"{slug}-{sum(a.startswith(slug) for a in found)}")
    return found


def leads_nowhere(page: str, link: str) -> bool:
    if re.match(r"[a-z]+:", link):
        return False  # out of the project
    path, _, anchor = link.partition("#")
    target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
    return not os.path.exists(target) or bool(anchor) and anchor not in anchors(read(target))


def glossary() -> dict[str, str]:
    """Word -> what it means, of the glossary's table."""
    rows = re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \|$", read(GLOSSARY), re.MULTILINE)
    return dict(rows)


def test_there_are_pages():
    assert {"README.md", "docs/design.md", GLOSSARY, CHANGELOG, "CONTRIBUTING.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_no_line_of_prose_is_too_long(page):
    assert not [f"{page}:{number}" for number in too_long(read(page))]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    assert not [link for link in links(read(page)) if leads_nowhere(page, link)]


@pytest.mark.parametrize("page", PAGES)
def test_no_word_that_another_one_stands_for(page):
    said = [
        (word, number)
        for word, allowed in GONE.items()
        if page not in allowed
        for number, line in enumerate(read(page).splitlines(), 1)
        if re.search(word, line)
    ]
    assert not said


def test_the_glossary_is_short_and_every_word_of_it_is_used():
    words = glossary()
    assert 25 <= len(words) <= 40
    assert list(words) == sorted(words, key=str.lower)
    elsewhere = "\n".join(read(page) for page in PAGES if page != GLOSSARY)
    elsewhere = " ".join(elsewhere.split())  # two words may stand on two lines
    assert not [word for word in words if not re.search(rf"\b{re.escape(word)}s?\b", elsewhere, re.IGNORECASE)]


def test_what_the_checks_find():
    text = "# A b, `c`\n\n" + "x" * 111 + "\n| " + "x" * 111 + " |\n```\n" + "x" * 111 + "\n```\n## A b c\n"
    assert too_long(text) == [3]
    assert anchors(text) == {"a-b-c", "a-b-c-1"}
    assert links("see [the\npage](a.md#b), `[not](this)` and ![a picture](p.png)\n```\n[nor](that)\n```\n") == [
        "a.md#b",
        "p.png",
    ]
    assert leads_nowhere("README.md", "docs/none.md") and leads_nowhere("README.md", "docs/design.md#none")
    assert not leads_nowhere("docs/design.md", "../README.md") and not leads_nowhere("README.md", "https://a.example/")

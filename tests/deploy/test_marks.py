"""Every block of commands on the pages of deployment says which test types it, or why none does."""

import re

import pytest

from tests.engines.typed import marked_blocks

PAGES = ["deploy/README.md", "docs/backups.md"]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_who_types_it(page):
    with open(page) as file:
        text = file.read()
    marked = marked_blocks(text)
    assert len(marked) == len(re.findall(r"^```$", text, re.MULTILINE)) // 2 and len(marked) > 4
    for by, _ in marked:
        if by is not None:
            with open(by) as file:
                assert page in file.read()

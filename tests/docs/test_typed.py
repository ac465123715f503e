"""Every command of the pages is taken by its parser, and is typed by a test or says why not."""

import contextlib
import io
import os
import re

import pytest

from pipelines.cli import main
from tests.docs.test_prose import read
from tests.docs.typed import Block, Typed, blocks_of, commands_of, fault_of, pages

TEXTS = {page: read(page) for page in pages()}
BLOCKS = [block for page, text in TEXTS.items() for block in blocks_of(text, page)]
A_FORM = "a form"  # of what may be typed, not a line
# The pages whose blocks are typed below, unless a comment says otherwise.
TYPED = {"docs/quick-start.md", "docs/operations.md", "docs/configuration.md", "docs/integrations.md"} | {
    "docs/item-vectors.md"
}
NOTHING_BEAT_THE_START = 4
# The world of the pages is larger than a test needs.
SMALLER = {
    "--users 2000 --pins 5000": "--users 40 --pins 90",
    "--days 90": "--days 40",
    "--end 2026-08-29": "--end 2026-07-10",
    "--preset small": "--preset tiny",
    "--preset demo --steps 150 --evaluate-every 25": "--preset tiny --steps 2 --evaluate-every 1",
    "--user-buckets 32": "--user-buckets 4",
}


class Shell:
    """Types the commands of pages in a folder, one after the other, as somebody would who reads them there."""

    def __init__(self, folder: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(folder)
        self.folder = folder
        self.said = ""
        self.means: dict[str, str] = {r"\$PWD\b": folder, r"\bKV\b": f"lmdb://{folder}/kv"}

    def type(self, command: Typed) -> None:
        """Types a command; it fails where the page shows an error of its, and nowhere else."""
        line = command.line
        for words, ours in SMALLER.items():
            line = line.replace(words, ours)
        for word, meant in self.means.items():
            line = re.sub(word, meant, line)
        ours = Typed(line, command.refused)
        assert ours.program == "pinnerformer", line
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(ours.words[1:])
        self.said = out.getvalue()
        if "train" in ours.words[1:2] and code == NOTHING_BEAT_THE_START:
            code = 0  # as two steps on a tiny world may; the model is there
        assert (code != 0) == command.refused, f"{line}: {code}\n{self.said[-2000:]}\n{err.getvalue()[-2000:]}"

    def type_block(self, block: Block) -> None:
        for command in block.commands:
            if re.search(r"--user ID\b", command.line):
                self.means[r"\bID\b"] = self.somebody()
            self.type(command)

    def somebody(self) -> str:
        """A user that `retrieve` has just named."""
        found = re.search(r"(?<![\d-])\d{5,}\b", self.said)
        assert found is not None, self.said
        return found[0]


def typed_blocks(page: str, heading: str = "") -> list[Block]:
    """The blocks of a page that are typed here, from a heading on up to the next."""
    lines = TEXTS[page].splitlines()
    first = lines.index(f"## {heading}") + 1 if heading else 0
    last = next((n for n in range(first, len(lines)) if heading and lines[n].startswith("## ")), len(lines))
    return [block for block in BLOCKS if block.page == page and not block.how and first < block.line <= last]


def test_every_command_is_taken_by_its_parser():
    found = [(block, command, fault_of(command, block.why == A_FORM)) for block in BLOCKS for command in block.commands]
    assert len(found) > 120
    assert not [f"{block.name}: {command.line}: {fault}" for block, command, fault in found if fault]


def test_every_block_is_typed_or_says_why_not():
    assert len(BLOCKS) > 60
    assert {block.page for block in BLOCKS if not block.how} == TYPED
    for block in BLOCKS:
        if block.how == "run":  # by another test, which reads the page
            assert os.path.basename(block.page) in read(block.why), block.name
        for path in re.findall(r"\btests/[\w/]+(?:\.py)?", block.why):
            assert os.path.exists(path), f"{block.name}: {path}"
        assert block.how != "not run" or len(block.why.split()) > 1, block.name


@pytest.mark.slow
def test_quick_start(tmp_path, monkeypatch):
    shell = Shell(str(tmp_path), monkeypatch)
    (block,) = typed_blocks("docs/quick-start.md", "A synthetic world")
    shell.type_block(block)
    assert "serves 2026-11-05" in shell.said
    (block,) = typed_blocks("docs/integrations.md")
    monkeypatch.setitem(shell.means, r"\bROOT\b", "root")
    shell.type_block(block)
    assert sorted(os.listdir(tmp_path / "export"))


@pytest.mark.slow
def test_quick_start_of_many_days_and_of_a_model(tmp_path, monkeypatch):
    shell = Shell(str(tmp_path), monkeypatch)
    (world,) = typed_blocks("docs/quick-start.md", "A synthetic world")
    for command in world.commands[:2]:
        shell.type(command)
    (many,) = typed_blocks("docs/quick-start.md", "Many days at once")
    shell.type_block(many)
    assert "2026-11-05" in shell.said
    for heading in ("A trained model", "Is it any good?"):
        (block,) = typed_blocks("docs/quick-start.md", heading)
        shell.type_block(block)


@pytest.mark.slow
def test_vectors_of_pins(tmp_path, monkeypatch):
    shell = Shell(str(tmp_path), monkeypatch)
    shell.means |= {r"\bWORLD\b": "world", r"\bPINS\b": "vectors"}
    shell.type(Typed("pinnerformer synth --out world --users 40 --pins 90 --start 2026-10-20 --days 12 --seed 1"))
    (block,) = typed_blocks("docs/item-vectors.md")
    shell.type_block(block)
    assert os.path.exists(tmp_path / "vectors/version.json")


def test_a_file_of_flags(tmp_path, monkeypatch):
    shell = Shell(str(tmp_path), monkeypatch)
    for block in typed_blocks("docs/configuration.md"):
        shell.type_block(block)
        assert shell.said


@pytest.mark.slow
def test_operations(tmp_path, monkeypatch):
    """On a world of its own, in the order of the page: what needs no accident."""
    shell = Shell(str(tmp_path), monkeypatch)
    shell.type(Typed("pinnerformer synth --out world --users 80 --pins 150 --start 2026-11-01 --days 8 --seed 1"))
    shell.type(Typed("pinnerformer init-model --preset tiny --logs world/logs --pins world/pins --out model --seed 1"))
    night = "pinnerformer daily --root root --logs world/logs --pins world/pins --model model --kv KV"
    shell.type(Typed(f"{night} --date 2026-11-04 --bootstrap-from 2026-11-01"))
    shell.type(Typed(f"{night} --date 2026-11-05"))
    shell.means[r"\bIN\b"] = "--logs world/logs --pins world/pins --model model"
    for block in typed_blocks("docs/operations.md"):
        if "leavers.txt" in block.commands[0].line:
            shell.type(Typed("pinnerformer retrieve --root root --kv KV"))
            (tmp_path / "leavers.txt").write_text(f"{shell.somebody()}\n")
        shell.type_block(block)


def test_what_is_found_on_a_page():
    text = (
        "<!-- not run: needs a\ncluster -->\n```\n$ pinnerformer plan --root R \\\n    --a\n"
        "pinnerformer plan: no\n$ pinnerformer gc\n"
        "1 file\n```\n\n```\n.venv/bin/pinnerformer status   # now\npinnerformer status: old\n"
        "0 2 * * *  me  cd /srv && make x\n"
        "```\n```python\nmake = 1\n```\n"
    )
    first, second = blocks_of(text, "p.md")
    assert (first.how, first.why, first.line) == ("not run", "needs a cluster", 4)
    assert [(c.line, c.refused) for c in first.commands] == [
        ("pinnerformer plan --root R --a", True),
        ("pinnerformer gc", False),
    ]
    assert [c.words for c in second.commands] == [[".venv/bin/pinnerformer", "status"], ["make", "x"]]
    assert not second.how and list(commands_of("nothing of ours\n")) == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("pinnerformer plan --rot x", "unknown flag --rot"),
        ("pinnerformer plan --root x --logs l --pins p --model m --date never", "never"),
        ("pinnerformer status", "required: --root"),
        ("make nothing", "make has no"),
        ("python -m benchmarks.foresight --none", "has no"),
    ],
)
def test_faults_are_found(line, says):
    assert says in fault_of(Typed(line))

"""The file of flags as it is written: text stays text, every value has its line, and what is doubtful is refused."""

import pytest

from pipelines.configuration.yaml_file import MAX_BYTES, parse_config_text, read_config_file
from stores.errors import UsageError


def entries_of(text: str) -> dict:
    return {entry.key: entry for entry in parse_config_text(text, "f.yaml").entries}


def test_values_stay_the_text_that_stands_there():
    found = entries_of("a: no\nb: 0640\nc: 2026-11-04\nd: 1_000\ne: '12:30'\nf: 1e-4\ng: -8\nh: off\ni: 0x10\n")
    assert {key: (entry.value.kind, entry.value.text) for key, entry in found.items()} == {
        "a": ("text", "no"),
        "b": ("text", "0640"),
        "c": ("text", "2026-11-04"),
        "d": ("text", "1_000"),
        "e": ("text", "12:30"),
        "f": ("text", "1e-4"),
        "g": ("text", "-8"),
        "h": ("text", "off"),
        "i": ("text", "0x10"),
    }


def test_every_key_and_value_has_its_line():
    found = entries_of("# first\na: 1\n\nb:\n  c: x\n  d:\n    - y\n    - z\n")
    assert (found["a"].line, found["b"].line) == (2, 4)
    c, d = found["b"].value.entries
    assert (c.line, d.line, [item.line for item in d.value.items]) == (5, 6, [7, 8])


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~\n"])
def test_a_file_may_say_nothing(text):
    assert entries_of(text) == {}


@pytest.mark.parametrize("nothing", ["", " ~", " null", " # a comment"])
def test_nothing_after_a_key_is_nothing(nothing):
    assert entries_of(f"kv:{nothing}\n")["kv"].value.kind == "nothing"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: a: stands in line 1 already; keep one of them"),
        ("daily:\n  a: 1\n  a: 2\n", "f.yaml:3: daily: a stands in line 2 already; keep one"),
        ("a: [1\n", "f.yaml:2: no YAML: "),
        ("a: 'x\n", "f.yaml:"),
        ("\ta: 1\n", "f.yaml:1: no YAML: "),
        ("- a\n", "f.yaml:1: expected keys and values, `root: /srv/root`, found a sequence"),
        ("word\n", "f.yaml:1: expected keys and values, `root: /srv/root`, found a scalar"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: no YAML: "),
        ("a: !env X\n", "f.yaml:1: !env: no tags here; write the value itself, or env:NAME"),
        ("a: !!python/name:os.system\n", "f.yaml:1: tag:yaml.org,2002:python/name:os.system: no tags here"),
        ("? [x]\n: 1\n", "f.yaml:1: a key is a word, not a sequence"),
        ("a: [[1]]\n", "f.yaml:1: a: a list is of values, found a list in it"),
        ("a: &a\n  b: *a\n", "f.yaml:"),  # points to itself
        ("a: {b: {c: {d: {e: {f: 1}}}}}\n", "f.yaml:1: "),
        ("kv: redis://:hunter2@host/0\n", "f.yaml:1: kv: a password stands in the file; write env:NAME"),
        ("gc:\n  kv: [lmdb:///kv, 'redis://host/0?password=hunter2']\n", "f.yaml:2: gc.kv: a password stands"),
        ("a: *nobody\n", "f.yaml:1: no YAML: "),
        ("[" * 3000, "f.yaml"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(text, said):
    with pytest.raises(UsageError) as caught:
        parse_config_text(text, "f.yaml")
    assert str(caught.value).startswith(said)
    assert "hunter2" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    for name, content, said in (
        ("none.yaml", None, "No such file or directory; `pinnerformer init` writes such a file"),
        ("binary.yaml", b"\xff\xfe\x00", "no text in UTF-8"),
        ("huge.yaml", b"#" * (MAX_BYTES + 1), "larger than 1 MiB"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UsageError) as caught:
            read_config_file(str(path))
        assert str(caught.value).startswith(f"{path}: {said}")
    with pytest.raises(UsageError, match="Is a directory"):
        read_config_file(str(tmp_path))


def test_an_alias_stands_for_what_it_names():
    found = entries_of("logs: &logs world/logs\nstatus:\n  logs: *logs\n")
    assert found["status"].value.entries[0].value.text == "world/logs"

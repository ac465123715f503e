"""retrieve: the pins of a user, and a few users where none is named."""

import json
import shlex

from pipelines.cli import main
from stores.files import Root
from stores.releases import read_current
from tests.pipelines.nights import vectors_of


def test_without_a_user_a_few_are_named_and_how_to_ask_for_one(kept, capsys):
    users = vectors_of(kept.root, read_current(Root(kept.root)))
    assert kept.of_root("retrieve") == 0
    first, *named, last = capsys.readouterr().out.splitlines()
    assert first == f"release 2026-11-04 has vectors of {len(users)} users; some of them:"
    assert len(named) == 5 and {int(line) for line in named} <= set(users)
    assert last == f"ask for one: pinnerformer retrieve --root={kept.root} --kv={kept.kv} --user={int(named[0])}"
    assert main([*shlex.split(last.partition("pinnerformer ")[2]), "--json", "--k=3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["user_id"] == int(named[0]) and len(found["pins"]) == 3
    assert kept.of_root("retrieve", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"release": "2026-11-04", "users": len(users), "some_users": [int(line) for line in named]}


def test_a_string_at_a_root_of_int64_is_refused_with_the_way_out(kept, capsys):
    for text in ("u-17", "17.5", ""):
        assert kept.of_root("retrieve", f"--user={text}") == 2
        assert (
            f"--user {text}: {text!r} is not a user id; the user ids of this root are whole numbers"
            in capsys.readouterr().err
        )
    assert kept.of_root("retrieve", "--user=123456") == 1
    assert "user 123456: no vector in release 2026-11-04" in capsys.readouterr().err

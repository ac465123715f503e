"""File, environment and command line as one command line: which of them is in force, and what is refused where."""

import os

import pytest

from pipelines.arguments import SHARED
from pipelines.configuration.flags import BEAM, variable
from pipelines.configuration.layers import choose_file, resolve, without_flags
from pipelines.configuration.parsers import all_parsers, configured_commands, parser_of
from pipelines.configuration.sections import PLURAL
from pipelines.configuration.values import PATHS, flag_of, is_repeatable, is_switch
from stores.errors import UsageError

# Of flags that name no file or folder.
METAVARS_OF_VALUES = set(
    """0640 1h 2d 2h 30d 30h 3d 6h 7d C CHAR COLUMN COLUMN:THEIRS=OURS COLUMN[=WORD] D DATE DAYS FORMAT GIB HINT HOURS
    ID KIND M N NAME N|DATES OURS=THEIRS P R RELEASE S SECONDS SELECT SHARE SIZE STEPS T TEXT URL WHERE X ZONE env:NAME
    """.split()
)


@pytest.fixture
def words(tmp_path, monkeypatch):
    """Resolves a command of a file with some text; the folder of the file stands as `~` in the words."""
    monkeypatch.chdir(tmp_path)

    def resolved(command: str, text: str | None, *typed: str, **environ: str) -> list[str]:
        if text is not None:
            (tmp_path / "pinnerformer.yaml").write_text(text)
        found = resolve(command, lambda: parser_of(command), typed, configured_commands(), environ)
        return [word.replace(str(tmp_path), "~") for word in found.words]

    return resolved


def test_nearer_layers_win(words):
    file = "lookback: 1\n"
    section = "daily:\n  lookback: 2\n"
    assert words("daily", file) == ["--lookback=1"]
    assert words("daily", file + section) == words("daily", section + file) == ["--lookback=2"]
    near = {"PINNERFORMER_LOOKBACK": "3"}
    assert words("daily", file + section, **near) == ["--lookback=3"]
    near["PINNERFORMER_DAILY_LOOKBACK"] = "4"
    assert words("daily", file + section, **near) == ["--lookback=4"]
    assert words("daily", file + section, "--lookback=5", **near) == ["--lookback=5"]
    assert words("daily", file + section, "--lookback", "5", **near) == ["--lookback", "5"]
    assert words("backfill", file + section, **near) == ["--lookback=3"]  # another command's section says nothing
    assert words("status", file + section) == ["--lookback=1"]


def test_a_section_of_daily_is_of_plan_too_and_plan_has_one_of_its_own(words):
    text = "daily: {token-budget: 7, lookback: 2}\nplan: {lookback: 3}\n"
    assert sorted(words("plan", text)) == ["--lookback=3", "--token-budget=7"]
    assert "--token-budget=8" in words("plan", text, PINNERFORMER_DAILY_TOKEN_BUDGET="8")
    assert sorted(words("daily", text)) == ["--lookback=2", "--token-budget=7"]


def test_no_file_and_no_variable_leave_the_words_alone(words):
    typed = ("--root", "x", "--", "--config")
    assert words("status", None, *typed, PATH="/bin") == list(typed)


def test_which_file_is_read(words, tmp_path):
    (tmp_path / "other.yaml").write_text("lookback: 9\n")
    text = "lookback: 1\n"
    assert words("status", text) == ["--lookback=1"]
    assert words("status", text, "--config", "other.yaml") == ["--lookback=9"]
    assert words("status", text, "--config=other.yaml", "--json") == ["--lookback=9", "--json"]
    assert words("status", text, PINNERFORMER_CONFIG="other.yaml") == ["--lookback=9"]
    assert words("status", text, "--config=none", PINNERFORMER_CONFIG="other.yaml") == []
    assert words("status", text, PINNERFORMER_CONFIG="none") == []
    with pytest.raises(UsageError, match="--config: say which file, or none for none"):
        choose_file(["--config"], {})


def test_paths_are_relative_to_the_file_and_urls_are_left_alone(words, tmp_path, monkeypatch):
    text = (
        "root: root/\nlogs: ../logs\npins: /pins\nmodel: s3://bucket/model\nkv: redis://h/0\n"
        "daily: {gates: x/gates.yaml}\nevaluate: {models: [a, gs://b/c], oracle: hdfs://w}\n"
    )
    monkeypatch.setenv("HOME", "/home/x")
    above = os.path.dirname(tmp_path)
    assert set(words("daily", text)) == {
        "--root=~/root",
        f"--logs={above}/logs",
        "--pins=/pins",
        "--model=s3://bucket/model",
        "--kv=redis://h/0",
        "--gates=~/x/gates.yaml",
    }
    assert words("evaluate", text) == ["--model=~/a", "--model=gs://b/c", "--oracle=hdfs://w"]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "pinnerformer.yaml").write_text("root: root\nlogs: ~/logs\nkv: lmdb://kv?map_size=1GiB\n")
    from_elsewhere = words("daily", None, "--config=sub/pinnerformer.yaml")
    assert sorted(from_elsewhere) == ["--kv=lmdb://~/sub/kv?map_size=1GiB", "--logs=/home/x/logs", "--root=~/sub/root"]
    typed = words("daily", "kv: env:KV\n", "--root=root", PINNERFORMER_LOGS="logs")
    assert typed == ["--kv=env:KV", "--logs=logs", "--root=root"]  # only of a file


def test_switches(words):
    assert words("daily", "quiet: true\n") == ["--quiet"]
    assert words("daily", "quiet: false\n") == []
    assert words("daily", "quiet: true\ndaily: {quiet: false}\n") == []
    assert words("daily", "quiet: true\n", PINNERFORMER_QUIET="false") == []
    assert words("daily", "quiet: true\n", "--quiet=false", "--date=x") == ["--date=x"]
    assert words("daily", "quiet: false\n", "--quiet") == ["--quiet"]
    assert words("daily", None, "--quiet=true", PINNERFORMER_CONFIG="none") == ["--quiet"]


def test_nothing_takes_back_what_a_farther_layer_says(words):
    assert words("status", "kv: lmdb:///kv\nstatus: {kv: }\n") == []
    assert words("status", "kv: lmdb:///kv\nstatus: {kv: }\n", PINNERFORMER_KV="lmdb:///near") == ["--kv=lmdb:///near"]


def test_repeatable_flags_are_lists_and_the_nearest_list_is_taken_whole(words):
    text = "kv: lmdb:///a\ngc:\n  kv: [lmdb:///b, lmdb:///c]\n"
    assert words("gc", text) == ["--kv=lmdb:///b", "--kv=lmdb:///c"]
    assert words("verify", text) == ["--kv=lmdb:///a"]
    assert words("gc", text, PINNERFORMER_GC_KV="lmdb:///d 'lmdb:///e f'") == ["--kv=lmdb:///d", "--kv=lmdb:///e f"]
    assert words("gc", text, "--kv=lmdb:///g", "--kv=lmdb:///h") == ["--kv=lmdb:///g", "--kv=lmdb:///h"]
    cuts = words("evaluate", "evaluate: {cuts: [2026-11-01, 2026-11-15], k: 5}\n", "--json")
    assert cuts == ["--cuts", "2026-11-01", "2026-11-15", "--k=5", "--json"]
    assert words("release", "release: {force-gates: [a, b]}\n") == ["--force-gate=a", "--force-gate=b"]


def test_mappings(words):
    text = "columns: {pin_id: sku, user_id: 'the user'}\nactions: {purchase: buy}\nsurfaces: {web: home}\n"
    assert words("daily", text) == [
        "--column=pin_id=sku",
        "--column=user_id=the user",
        "--value=action:purchase=buy",
        "--value=surface:web=home",
    ]
    assert words("daily", "values: {action: {purchase: buy}}\n") == ["--value=action:purchase=buy"]
    assert words("daily", "values: ['action:a=b=c']\n") == ["--value=action:a=b=c"]
    assert words("daily", "absent: [duration_s]\n") == ["--absent=duration_s"]
    assert words("daily", "absent: {surface: app, duration_s: }\n") == ["--absent=surface=app", "--absent=duration_s"]
    assert words("daily", "column: pin_id=sku\n") == ["--column=pin_id=sku"]
    assert words("daily", "actions: {a: b}\n", "--value=action:c=d") == ["--value=action:c=d"]


def test_of_flags_that_exclude_each_other_the_nearer_one_stays(words):
    text = "evaluate: {cut: 2026-11-01}\n"
    assert words("evaluate", text, "--cuts", "2026-10-01") == ["--cuts", "2026-10-01"]
    assert words("evaluate", text, PINNERFORMER_EVALUATE_CUTS="2026-10-01") == ["--cuts", "2026-10-01"]
    both = "evaluate: {cut: 2026-11-01, cuts: [2026-10-01]}\n"
    assert words("evaluate", both) == ["--cuts", "2026-10-01", "--cut=2026-11-01"]  # argparse refuses them
    assert words("study", "study: {quick: true}\n", PINNERFORMER_STUDY_SMALL="false") == ["--quick"]
    assert words("study", "study: {quick: true}\n", "--small") == ["--small"]


def test_what_a_command_means_of_its_own_is_not_taken_from_the_top(words):
    text = "root: r\nmodel: m\npins: p\nlogs: l\ngates: g\ndevice: cuda\n"
    assert words("train", text) == words("synth", text) == words("evaluate", text) == []
    assert words("verify", text) == words("status", text) == words("release", text) == ["--root=~/r"]
    assert sorted(words("training-data", text)) == ["--logs=~/l", "--pins=~/p", "--root=~/r"]
    assert words("train", text + "train: {model: m2}\n") == ["--model=~/m2"]
    assert words("train", text, PINNERFORMER_MODEL="m3") == []
    assert words("train", text, PINNERFORMER_TRAIN_MODEL="m3") == ["--model=m3"]


def test_flags_of_beam(words):
    text = "beam:\n  direct_num_workers: 2\n  streaming: true\n  experiments: [a, b]\n"
    found = ["--direct_num_workers=2", "--streaming", "--experiment=a", "--experiment=b"]
    assert words("daily", text) == words("training-data", text) == found
    assert words("status", text) == []  # which runs no pipeline
    near = text + "daily:\n  beam: {direct_num_workers: 3, streaming: false}\n"
    assert words("daily", near) == ["--direct_num_workers=3", *found[2:]]
    assert words("backfill", near) == found
    assert words("daily", text, PINNERFORMER_BEAM_DIRECT_NUM_WORKERS="4") == ["--direct_num_workers=4", *found[1:]]
    assert words("daily", near, PINNERFORMER_DAILY_BEAM_STREAMING="true")[1] == "--streaming"
    assert words("daily", text, "--direct_num_workers", "5") == [*found[1:], "--direct_num_workers", "5"]
    assert words("daily", text, "--streaming=false") == [found[0], *found[2:]]


def test_secrets_of_beam_come_from_the_environment(words):
    text = "beam: {s3_secret_access_key: env:KEY}\n"
    assert words("daily", text, KEY="hunter2") == ["--s3_secret_access_key=hunter2"]
    with pytest.raises(UsageError, match="pinnerformer.yaml:1: --s3_secret_access_key: there is no variable KEY"):
        words("daily", text)
    with pytest.raises(UsageError) as caught:
        words("daily", "beam: {s3_secret_access_key: hunter2}\n")
    assert "pinnerformer.yaml:1: beam.s3_secret_access_key: a secret stands in the file" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        ("status", "rot: x", "1: rot: unknown key; did you mean root?"),
        ("status", "token_bugdet: 5", "1: token_bugdet: unknown key; did you mean token-budget?"),
        ("status", "root: x\nstauts: {}", "2: stauts: unknown key; did you mean status?"),
        ("status", "zzz: 1", "1: zzz: unknown key; at the top stand flags that commands share, sections and beam"),
        ("status", "steps: 5", "1: steps: not shared by all commands that have it; put it below the section of"),
        ("status", "detach: true", "1: detach: not shared by all commands that have it"),
        ("status", "topics: 5", "1: topics: not shared by all commands that have it; put it below `synth:`"),
        ("status", "help: true", "1: help: unknown key"),
        ("status", "config: x", "1: config: unknown key"),
        ("status", "init: {logs: x}", "1: init: unknown key"),
        ("status", "roots: x", "1: roots: unknown key; did you mean root?"),
        ("train", "roots: x", "1: roots: unknown key; did you mean root?"),
        (
            "status",
            "status:\n  max-aeg: 30h",
            "2: status.max-aeg: no flag --max-aeg of pinnerformer status; did you m",
        ),
        ("status", "status: 30h", "1: status: a section of flags; write keys and values below it"),
        ("status", "status: {beam: {runner: x}}", "1: status.beam: no flag --beam of pinnerformer status"),
        ("status", "status: {config: x}", "1: status.config: no flag --config of pinnerformer status"),
        ("rollback", "rollback: {unpin: true}", "1: rollback.unpin: no flag --unpin of pinnerformer rollback"),
        ("status", "status:\n  max-age: 30", "2: status.max-age: '30' is not a duration; write 90s, 15m, 30h or 2d"),
        ("daily", "lookback: many", "1: lookback: 'many' is not a whole number"),
        ("daily", "lookback: [1, 2]", "1: lookback: --lookback takes one value, found a list"),
        ("daily", "root: {a: b}", "1: root: --root takes one value, found keys and values"),
        ("daily", "kv: [a, b]", "1: kv: --kv takes one value, found a list"),
        ("daily", "quiet: yes", "1: quiet: --quiet is a switch; write true or false, not 'yes'"),
        ("daily", "device: tpu", "1: device: 'tpu' is none of cpu, cuda"),
        ("daily", "columns:\n  pin_id: [a]", "2: columns: pin_id: expected OURS=THEIRS, as a key and its value"),
        ("gc", "kv: {a: b}", "1: kv: --kv takes a value or a list of them, found keys and values"),
        ("daily", "column: a=b\ncolumns: {c: d}", "2: columns: is --column, which pinnerformer.yaml:1 gives alr"),
        ("daily", "token-budget: 5\ntoken_budget: 6", "2: token_budget: is --token-budget, which pinnerformer.yaml:1"),
        (
            "daily",
            "beam: {direct_num_worker: 2}",
            "1: beam.direct_num_worker: Beam has no option --direct_num_worker",
        ),
        ("daily", "beam: {direct_num_workers: two}", "1: beam.direct_num_workers: 'two' is not a whole number"),
        (
            "daily",
            "daily:\n  beam:\n    runnr: x",
            "3: daily.beam.runnr: Beam has no option --runnr; did you mean run",
        ),
        ("daily", "daily: {beam: x}", "1: daily.beam: a section of flags; write keys and values below it"),
        ("daily", "beam: x", "1: beam: a section of flags; write keys and values below it"),
    ],
)
def test_what_a_file_may_not_say_is_refused_with_file_line_and_key(command, text, said, words):
    with pytest.raises(UsageError) as caught:
        words(command, text)
    assert str(caught.value).startswith(f"pinnerformer.yaml:{said}")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PINNERFORMER_LOOKBACK", "x", "PINNERFORMER_LOOKBACK: 'x' is not a whole number"),
        (
            "PINNERFORMER_DAILY_QUIET",
            "1",
            "PINNERFORMER_DAILY_QUIET: --quiet is a switch; write true or false",
        ),
        ("PINNERFORMER_COLUMN", "'a=b", "PINNERFORMER_COLUMN: No closing quotation; values stand apart by blanks"),
        ("PINNERFORMER_BEAM_DIRECT_NUM_WORKERS", "x", "PINNERFORMER_BEAM_DIRECT_NUM_WORKERS: 'x' is not a whole"),
    ],
)
def test_what_a_variable_may_not_say(name, value, said, words):
    with pytest.raises(UsageError) as caught:
        words("daily", None, **{name: value})
    assert str(caught.value).startswith(said)
    assert words("daily", None, **{name: ""}) == []  # empty says nothing


# The parsers themselves: what every one has to be for a file to give its flags.


def flags_of_all():
    return [
        (command, action)
        for command, parser in all_parsers().items()
        for action in parser._actions
        if flag_of(action) not in ("", "--help")
    ]


def test_every_metavar_says_whether_a_flag_names_a_path():
    unknown = {
        f"{command} {flag_of(action)} {action.metavar}"
        for command, action in flags_of_all()
        if action.metavar and action.metavar not in PATHS | METAVARS_OF_VALUES
    }
    assert not unknown, "add the metavar to `values.PATHS`, or to this test's METAVARS_OF_VALUES"


def test_what_is_shared_is_what_several_commands_have_in_one_sense():
    kinds: dict[str, dict[str, set]] = {}
    for command, action in flags_of_all():
        parser, name = all_parsers()[command], flag_of(action)[2:]
        if command in configured_commands() and name in SHARED and name not in parser.own:
            kinds.setdefault(name, {}).setdefault(f"{action.type} {action.metavar}", set()).add(command)
    assert set(kinds) == SHARED
    several = {flag_of(action)[2:] for _, action in flags_of_all() if is_repeatable(action)}
    assert several & SHARED - {"model", "root"} == PLURAL  # several of them are of `evaluate` and `serve` alone
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}
    assert [name for name, found in kinds.items() if sum(map(len, found.values())) < 2] == []
    for command in configured_commands():
        assert all_parsers()[command].own <= SHARED


def test_no_variable_means_two_flags():
    found: dict[str, str] = {variable("config"): "--config"}
    for command, action in flags_of_all():
        name = flag_of(action)[2:]
        if name == "config":
            continue
        for one in [variable(command, name), *([variable(name)] if name in SHARED else [])]:
            said = name if one == variable(name) else f"{command} {name}"
            assert found.setdefault(one, said) == said
    assert not any(name.startswith(f"{variable(BEAM)}_") for name in found)


def test_no_flag_is_called_like_a_section_and_every_flag_can_be_given():
    for command, action in flags_of_all():
        assert flag_of(action)[2:] not in {*SHARED} & {*configured_commands(), BEAM}
        assert is_switch(action) or action.nargs in (None, "+"), f"{command} {flag_of(action)}: a file cannot give it"


def test_a_process_that_is_given_all_flags_as_words_reads_no_other(words):
    """A rank of `train --processes`: what a switch was turned off with would come back from the file otherwise."""
    environ = {"PATH": "/bin", "PINNERFORMER_CACHE": "/c", "PINNERFORMER_DAILY_QUIET": "true"}
    given = {"PINNERFORMER_QUIET": "true", "PINNERFORMER_TRAIN_STEPS": "5", "PINNERFORMER_BEAM_RUNNER": "x"}
    left = without_flags({**environ, **given}, "train")
    assert left == {**environ, "PINNERFORMER_CONFIG": "none"}
    text = "quiet: true\ntrain: {steps: 9}\n"
    found = words("train", text, "--quiet=false", **given)
    assert found == ["--steps=5"]
    assert words("train", text, *found, **left) == found

"""The pre-commit configuration runs what `make lint` runs, and nothing else."""

import re

import yaml


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def test_the_hooks_are_the_lines_of_make_lint():
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)
    assert recipe is not None
    lines = [line.strip().removeprefix("@").replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    (repository,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"  # another one is downloaded
    assert [hook["entry"] for hook in repository["hooks"]] == lines
    assert all(hook["language"] == "system" and hook["always_run"] for hook in repository["hooks"])

"""Without extras: every command shows its help, and one that needs an extra names it before it does anything."""

import re
from importlib import metadata

import pytest

from pipelines.cli import COMMANDS
from tests.warm import run_python

# Takes away what pip would not install with the package alone, then runs one command after the other.
WITHOUT = """
import contextlib, importlib.abc, io, sys, traceback
from importlib import metadata

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

MISSING = set(sys.argv[1].split(","))
OURS = {"pinnerformer_model", "stores", "transforms", "pipelines"}  # imported again, without
for name in [name for name in sys.modules if name.partition(".")[0] in MISSING | OURS]:
    del sys.modules[name]
sys.meta_path.insert(0, Missing())

from pipelines.cli import main

for command in sys.argv[2:]:
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            code = main(command.split())
    except SystemExit as ended:
        code = ended.code
    except Exception:
        traceback.print_exc()
        code = None
    print(code, *out.getvalue().split()[:3])
"""


def extra_modules() -> list[str]:
    """The modules of all packages here that the package does not need, by what each package says that it needs."""
    needed, todo = set(), ["pinnerformer"]
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in needed:
            continue
        needed.add(name)
        with_extras = metadata.requires(name) or [] if is_installed(name) else []
        # An extra that somebody asks for (redis[hiredis]) counts as needed: what is taken away is never too much.
        todo += [re.match(r"[\w.-]+", line)[0] for line in with_extras if "extra ==" not in line or name == "redis"]
    modules = metadata.packages_distributions()
    return sorted(
        module
        for module, packages in modules.items()
        if not needed & {re.sub(r"[-_.]+", "-", package).lower() for package in packages}
    )


def is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.fixture(scope="module")
def missing() -> str:
    found = extra_modules()
    assert {"scipy", "matplotlib", "tensorboard", "implicit", "threadpoolctl", "pytest"} <= set(found)
    assert not {"torch", "numpy", "apache_beam", "pyarrow", "redis", "yaml", "jinja2"} & set(found)
    return ",".join(set(found) - {"pip", "setuptools", "pkg_resources", "_distutils_hack"})


def test_every_command_shows_its_help(missing):
    done = run_python(WITHOUT, missing, *[f"{command} --help" for command in COMMANDS])
    assert done.stdout.splitlines() == [f"0 usage: pinnerformer {command}" for command in COMMANDS], done.stderr


def test_a_command_that_needs_an_extra_names_it(missing, tmp_path):
    flags = f"--timelines {tmp_path}/none --out {tmp_path}/out"
    asked = [f"evaluate --timelines {tmp_path}/none", f"study {flags}", f"train {flags}"]
    asked += [f"item-vectors --logs {tmp_path}/logs --until 2026-11-01 --out {tmp_path}/out"]
    done = run_python(WITHOUT, missing, *asked)
    assert done.stdout.split() == ["2"] * 4, done.stderr
    said = [line for line in done.stderr.splitlines() if ": loading " not in line]
    assert said[-4:] == [
        "pinnerformer evaluate: evaluate needs scipy: pip install 'pinnerformer[train]'",
        "pinnerformer study: study needs scipy: pip install 'pinnerformer[train]'",
        "pinnerformer train: train needs tensorboard: pip install 'pinnerformer[train]'",
        "pinnerformer item-vectors: item-vectors needs scipy: pip install 'pinnerformer[item-vectors]'",
    ]
    assert not any(tmp_path.iterdir())

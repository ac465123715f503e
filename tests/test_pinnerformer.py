"""The one name to import, and what it says where somebody else's folder stands before ours."""

import os
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest

import pinnerformer
from stores.embedding_client import EmbeddingClient
from stores.retriever import Retriever

HOME = os.path.dirname(os.path.abspath(pinnerformer.__file__))
CONSOLE_SCRIPT = ["-c", "import sys; from pinnerformer import main; sys.exit(main())"]


def start(*words: str, cwd: str, path: str | None = None) -> subprocess.CompletedProcess:
    """Starts Python; without `path` nothing but what is installed, and the current folder, is on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": path} if path else {}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=environment)


def test_what_it_names_is_what_the_packages_have():
    assert pinnerformer.EmbeddingClient is EmbeddingClient and pinnerformer.Retriever is Retriever
    with pytest.raises(AttributeError, match="no attribute 'Retreiver'"):
        _ = pinnerformer.Retreiver


def test_importing_it_loads_nothing(tmp_path):
    code = (
        "import sys, pinnerformer; print([m for m in ('numpy', 'pyarrow', 'stores', 'pipelines') if m in sys.modules])"
    )
    assert start("-c", code, cwd=str(tmp_path)).stdout == "[]\n"


def test_the_version_is_that_of_pyproject_installed_or_not(monkeypatch):
    with open(os.path.join(HOME, "pyproject.toml"), "rb") as file:
        version = tomllib.load(file)["project"]["version"]
    assert pinnerformer.__version__ == version

    def not_installed(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", not_installed)
    assert pinnerformer.__version__ == version


def test_the_module_is_the_console_script(tmp_path):
    done = start("-m", "pinnerformer", "--version", cwd=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, f"pinnerformer {pinnerformer.__version__}\n")


def make_package(folder, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("")


@pytest.mark.parametrize("name", ["pipelines", "stores"])
def test_a_package_of_the_current_folder_is_named(tmp_path, name):
    make_package(tmp_path, name)
    done = start("-m", "pinnerformer", "status", "--help", cwd=str(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"pinnerformer: {tmp_path}/{name} shadows our package `{name}` ({HOME}/{name}): it lies in the current folder; "
        "start from another folder, or rename it\n"
    )


def test_a_folder_without_python_in_it_hides_nothing(tmp_path):
    (tmp_path / "stores" / "shop-1").mkdir(parents=True)
    done = start("-m", "pinnerformer", "status", "--help", cwd=str(tmp_path))
    assert done.returncode == 0 and done.stdout.startswith("usage: pinnerformer status"), done.stderr


def test_a_folder_that_is_no_package_and_has_a_module_of_ours_is_named_where_it_hides_it(tmp_path):
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "cli.py").write_text("raise SystemExit('theirs')")
    hidden = "theirs" in start("-c", "import pipelines.cli", cwd=str(tmp_path)).stderr  # by an editable install
    done = start("-m", "pinnerformer", "--version", cwd=str(tmp_path))
    assert done.returncode == (2 if hidden else 0), done.stderr
    assert (f"{tmp_path}/pipelines shadows our package `pipelines`" in done.stderr) == hidden


def test_a_package_that_pythonpath_brings_is_named_to_the_console_script_and_to_an_import(tmp_path):
    make_package(tmp_path, "stores")
    elsewhere = str(tmp_path / "elsewhere")
    os.mkdir(elsewhere)
    words = (
        f"{tmp_path}/stores shadows our package `stores` ({HOME}/stores): PYTHONPATH names the folder that it lies in"
    )
    done = start(*CONSOLE_SCRIPT, cwd=elsewhere, path=str(tmp_path))
    assert done.returncode == 2 and words in done.stderr and f"take {tmp_path} out of PYTHONPATH" in done.stderr
    done = start("-c", "from pinnerformer import Retriever", cwd=elsewhere, path=str(tmp_path))
    assert done.returncode == 1 and f"ImportError: {words}" in done.stderr


def test_a_module_of_that_name_is_named(tmp_path):
    (tmp_path / "transforms.py").write_text("")
    done = start("-m", "pinnerformer", "--version", cwd=str(tmp_path))
    assert done.returncode == 2 and f"{tmp_path}/transforms.py shadows our package `transforms`" in done.stderr

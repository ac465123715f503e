"""`make setup`: what it asks uv for, and the line that it ends with where something is missing."""

import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import pytest

NEEDED = "bash make uname cat sha256sum sed awk grep env".split()
RECORD = '#!/bin/bash\necho "${0##*/} $* [$HNSWLIB_NO_NATIVE $CFLAGS $CXXFLAGS]" >>"$LOG"\n'


@pytest.fixture
def machine(tmp_path) -> pathlib.Path:
    """A machine in a folder: programs on a path of its own, and a .venv whose uv writes down what it was asked for."""
    for folder in ("path", "venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    for name in NEEDED:
        (tmp_path / "path" / name).symlink_to(shutil.which(name))
    (tmp_path / "path" / "python3").symlink_to(os.path.realpath(sys.executable))
    write_program(tmp_path / "path" / "c++", "#!/bin/bash\n")
    for name in ("uv", "python"):
        write_program(tmp_path / "venv" / "bin" / name, RECORD)
    return tmp_path


def write_program(path: pathlib.Path, text: str) -> None:
    # What stands there may be a link to the machine's own program, which is not to be written over.
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def set_up(machine: pathlib.Path, *choices: str, goal: str = "setup") -> tuple[int, str, list[str]]:
    """(exit code, what is on the screen, what uv and the .venv's Python were asked for) of `make setup`, or a goal."""
    log = machine / "log"
    log.write_text("")
    done = subprocess.run(
        [machine / "path" / "make", goal, f"VENV={machine}/venv", *choices],
        env={"PATH": f"{machine}/path", "LOG": str(log)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout)
    return done.returncode, done.stdout, log.read_text().splitlines()


def test_hnswlib_is_built_for_a_named_baseline_and_not_for_this_cpu(machine):
    code, _, asked = set_up(machine, "HNSWLIB_MARCH=x86-64-v2")
    (sync,) = [line for line in asked if line.startswith("uv pip sync")]
    assert code == 0 and sync.endswith(" requirements.lock [1 -march=x86-64-v2 -march=x86-64-v2]")
    assert " --config-settings-package hnswlib:march=x86-64-v2 " in sync  # uv's cache tells builds apart by it
    assert set_up(machine) == (0, "", [])  # what was chosen stays chosen
    code, _, asked = set_up(machine, "HNSWLIB_MARCH=")
    assert "uv pip uninstall --quiet" in asked[1] and " hnswlib torch " in asked[1]  # the one that is there is another
    assert "hnswlib:march=any " in asked[2] and asked[2].endswith(" requirements.lock [1  ]")


def test_torch_comes_from_its_own_index_without_cuda_where_one_is_named(machine):
    code, said, asked = set_up(machine, "TORCH_INDEX=https://wheels.example.com/cpu")
    assert code == 0 and said == f"setting up {machine}/venv, torch from TORCH_INDEX\n"
    asked = [line for line in asked if line.startswith("uv pip")]
    rest, torch, ours = asked
    assert f" {machine}/venv/.requirements " in rest and " --require-hashes " in rest
    version = locked()["torch"]
    assert f" --no-deps --compile-bytecode --index https://wheels.example.com/cpu torch=={version} " in torch
    assert " --editable ." in ours
    kept = names(machine / "venv" / ".requirements")
    assert set(locked()) - kept == {"torch"} | {name for name in locked() if name.startswith(("nvidia-", "cuda-"))}
    assert len(set(locked()) - kept) > 10
    assert set_up(machine) == (0, "", [])  # as `make test` would call it next
    code, _, asked = set_up(machine, "TORCH_INDEX=")  # back again
    assert code == 0 and any(" requirements.lock " in line for line in asked)


def names(path: pathlib.Path | str) -> set[str]:
    return set(locked(path))


def locked(path: pathlib.Path | str = "requirements.lock") -> dict[str, str]:
    """Package -> version."""
    with open(path) as file:
        pairs = [line.split()[0].split("==") for line in file if line[:1].isalnum()]
    return {name.partition("[")[0]: version for name, version in pairs}


def test_a_machine_without_a_gpu_is_told_what_it_downloads_in_vain(machine):
    code, said, _ = set_up(machine)
    assert code == 0 and "3 GB of that are CUDA libraries" in said and "make setup TORCH_INDEX=URL" in said
    os.remove(machine / "venv" / ".set-up")
    write_program(machine / "path" / "nvidia-smi", "#!/bin/bash\n")
    code, said, _ = set_up(machine)
    assert code == 0 and "CUDA" not in said


def test_without_a_compiler_one_line_says_what_to_install(machine):
    os.remove(machine / "path" / "c++")
    code, said, asked = set_up(machine)
    assert code != 0 and asked == []
    assert said.splitlines()[0] == (
        "make: no C++ compiler (c++); hnswlib is built from source: apt-get install g++ (or your system's like)"
    )


def test_a_compiler_that_does_not_know_the_baseline_is_named(machine):
    write_program(machine / "path" / "c++", '#!/bin/bash\n[[ " $* " != *" -march="* ]]\n')
    code, said, asked = set_up(machine, "HNSWLIB_MARCH=x86-64-v3")
    assert code != 0 and asked == [] and "c++ does not take -march=x86-64-v3" in said
    assert "make HNSWLIB_MARCH= setup builds for any CPU" in said
    assert set_up(machine, "HNSWLIB_MARCH=")[0] == 0


def test_a_python_without_headers_is_named(machine):
    real = os.path.realpath(machine / "path" / "python3")
    os.remove(machine / "path" / "python3")
    (machine / "none").mkdir()
    patch = f"import sysconfig; sysconfig.get_path = lambda name: '{machine}/none'; "
    write_program(machine / "path" / "python3", f'#!/bin/bash\n[ "$1" = -c ] && exec {real} -c "{patch}$2"\n')
    code, said, asked = set_up(machine)
    assert code != 0 and asked == []
    assert "python3 has no headers (Python.h); hnswlib is built from source: apt-get install python3-dev" in said


def test_triton_is_in_no_set_up():
    """1 GB that torch asks for and only its compiler uses."""
    with open("pyproject.toml", "rb") as file:
        assert tomllib.load(file)["tool"]["uv"]["exclude-dependencies"] == ["triton"]
    assert "triton" not in locked() and "torch" in locked()


def test_peers_are_installed_from_a_lock_of_their_own_apart_from_venv(machine):
    peers = f"PEERS={machine}/peers"
    set_up(machine)
    (machine / "peers").mkdir()
    code, _, asked = set_up(machine, peers, goal="peers")
    assert code == 0 and len(asked) == 2
    assert asked[0].startswith(f"uv venv --quiet --python {machine}/venv/bin/python {machine}/peers ")
    assert asked[1].startswith(f"uv pip sync --quiet --python {machine}/peers/bin/python --require-hashes")
    assert " benchmarks/peers/requirements.lock " in asked[1]
    assert set_up(machine, peers, goal="peers") == (0, "", [])


def test_peers_have_the_products_own_torch():
    locks = [open(path).read() for path in ("requirements.lock", "benchmarks/peers/requirements.lock")]
    for name in ("torch", "numpy", "pyarrow"):
        (version,) = {next(line for line in lock.splitlines() if line.startswith(f"{name}==")) for lock in locks}
        assert version.startswith(f"{name}==")

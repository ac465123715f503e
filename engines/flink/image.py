"""What a Flink image has of Beam: its classes in Flink's lib, and the job server, whose jar they are taken from."""

import argparse
import glob
import os
import re
import shutil
import sys
import tempfile

from engines.flink.artifacts import FLINK, beam_library, job_server_jar
from stores.errors import InputError, PinnerFormerError


def minor_of(home: str) -> str:
    """The key of `FLINK` that a distribution is of, by its `lib/flink-dist-VERSION.jar`.

    Raises:
        InputError: no Flink is there, or one of a version that nothing here was run with.
    """
    names = [os.path.basename(path) for path in glob.glob(f"{home}/lib/flink-dist*.jar")]
    found = re.search(r"-(\d+\.\d+)\.\d+\.jar$", names[0]) if len(names) == 1 else None
    if found is None:
        raise InputError(f"{home}/lib: expected one flink-dist-VERSION.jar, found {', '.join(names) or 'none'}")
    if found[1] not in FLINK:
        raise InputError(f"{home}: Flink {found[1]}; expected one of {', '.join(FLINK)}")
    return found[1]


def lay_out(home: str, out: str, job_server: str | None = None) -> None:
    """Makes `OUT/lib/beam.jar`, which belongs into Flink's lib, and `OUT/job-server.jar`.

    Args:
        home: Of Flink.
        job_server: A jar of your own; default: as `job_server_jar` finds it.

    Raises:
        InputError: as `minor_of` and `job_server_jar`.
    """
    jar = job_server_jar(minor_of(home), job_server)
    os.makedirs(f"{out}/lib", exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as work:
        shutil.copyfile(beam_library(home, jar, work), f"{out}/lib/beam.jar")
    shutil.copyfile(jar, f"{out}/job-server.jar")
    for name in ("lib/beam.jar", "job-server.jar"):
        os.chmod(f"{out}/{name}", 0o644)  # who builds the image is not who runs it


def main() -> int:
    """Runs the command line; errors become one line and an exit code."""
    parser = argparse.ArgumentParser(prog="python -m engines.flink.image", description=__doc__)
    parser.add_argument("--flink-home", metavar="DIR", required=True, help="of a Flink distribution")
    parser.add_argument("--out", metavar="DIR", required=True, help="gets lib/beam.jar and job-server.jar")
    parser.add_argument("--job-server-jar", metavar="JAR", help="Beam's, of your own")
    arguments = parser.parse_args()
    try:
        lay_out(arguments.flink_home, arguments.out, arguments.job_server_jar)
    except PinnerFormerError as error:
        print(f"flink: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

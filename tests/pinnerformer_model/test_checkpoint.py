"""What loading a model costs besides the model."""

import subprocess
import sys

from tests.worlds import write_model

LOAD = """
import sys
from pinnerformer_model.checkpoint import load_model
load_model(sys.argv[1])
print([name for name in ("torch._dynamo", "sympy", "triton") if name in sys.modules])
"""


def test_a_loaded_model_brings_no_compiler(tmp_path):
    """Torch loads it to draw or divide numbers on `meta`, where shapes are checked: a second in every process."""
    folder = write_model(str(tmp_path / "model"))
    done = subprocess.run([sys.executable, "-c", LOAD, folder], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr

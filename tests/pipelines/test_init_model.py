"""`init-model --start-ridge`: weights that are fitted to the vectors."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from pinnerformer_model.checkpoint import load_model, model_digest
from pinnerformer_model.inference import encode_pins
from pipelines.cli import main
from tests.worlds import make_rows, write_file, write_vectors

PINS, WIDTH = 200, 24  # fewer than the model has room for


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> str:
    """Some logs, and vectors that have most in common."""
    folder = str(tmp_path_factory.mktemp("world"))
    write_file(f"{folder}/logs", 0, make_rows(0, 20, 5, PINS, 1))
    vectors = np.random.default_rng(1).standard_normal((PINS, WIDTH)).astype(np.float32) * 0.05
    vectors[:, 0] = 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write_vectors(f"{folder}/pins", dict(enumerate(vectors)), width=WIDTH)
    return folder


def init(world: str, name: str, *flags: str) -> str:
    out = f"{world}/{name}"
    given = [f"--logs={world}/logs", f"--pins={world}/pins", "--preset=tiny", f"--out={out}"]
    assert main(["init-model", *given, *flags]) == 0
    return out


def test_fitted_weights_make_less_of_what_all_vectors_have_in_common(world):
    plain, fitted = init(world, "plain"), init(world, "fitted", "--start-ridge=1")
    assert model_digest(plain) != model_digest(fitted)
    vectors = pq.read_table(f"{world}/pins/vectors.parquet", columns=["vector"])["vector"].to_pylist()
    z = np.asarray(vectors, np.float32)

    def likeness(folder: str) -> float:
        """How long the mean of the user tower's tokens of the vectors is, beside their own lengths."""
        tower = load_model(folder).user_tower
        token = tower.projection.weight.detach().numpy()[:, :WIDTH]
        tokens = z @ token.T
        return float(np.linalg.norm(tokens.mean(0)) / np.linalg.norm(tokens, axis=1).mean())

    assert likeness(plain) > 0.9 and likeness(fitted) < 0.6
    # Pins keep their angles: it is the user's side that is evened out.
    pins = encode_pins(load_model(fitted).pin_tower, z)
    np.testing.assert_allclose(pins @ pins.T, z @ z.T, atol=2e-2)


def test_a_ridge_that_is_none_is_refused(world, capsys):
    for word in ("0", "-1", "nan", "inf"):
        given = [f"--logs={world}/logs", f"--pins={world}/pins", f"--out={world}/no", f"--start-ridge={word}"]
        assert main(["init-model", *given]) == 2
        assert "--start-ridge" in capsys.readouterr().err

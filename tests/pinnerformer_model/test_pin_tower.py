"""The pin tower against the formula written out."""

import numpy as np

from pinnerformer_model.checkpoint import load_model
from pinnerformer_model.inference import encode_pins
from pinnerformer_model.time_encoding import ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS
from tests.pinnerformer_model.reference import ReferenceModel
from tests.pinnerformer_model.samples import cosine


def test_pin_tower_is_the_formula(model):
    vectors = np.random.default_rng(1).standard_normal((7, 256)).astype(np.float16)
    encoded = encode_pins(load_model(model).pin_tower, vectors, batch_size=3)
    reference = ReferenceModel(model, ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS)
    assert all(cosine(e, reference.pin(v)) >= 0.99999 for e, v in zip(encoded, vectors, strict=True))

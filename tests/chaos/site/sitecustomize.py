"""On PYTHONPATH of a chaos run: instruments the engine's worker processes, which import nothing of the tests."""

import os

if os.environ.get("PINNERFORMER_CHAOS"):
    from tests.chaos.events import instrument_from_environment

    instrument_from_environment()

"""On PYTHONPATH of a chaos run: arms the worker processes that the engine starts, which import nothing of the tests."""

import os

if os.environ.get("PINNERFORMER_CHAOS"):
    from tests.chaos.events import arm_from_environment

    arm_from_environment()

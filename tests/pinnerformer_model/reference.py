"""The model as plainly as possible, for tests."""

from pinnerformer_model.plain import PlainModel as ReferenceModel

__all__ = ["ReferenceModel"]

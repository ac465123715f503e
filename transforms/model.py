"""The model as a run refers to it: a folder and the digest it must have."""

import dataclasses

import torch

from pinnerformer_model.checkpoint import LoadedModel, load_model
from stores.errors import InputError


@dataclasses.dataclass(frozen=True)
class ModelReference:
    """Names a model without holding it; every worker process loads it once.

    Attributes:
        directory: With `model.safetensors` and `config.json`.
        digest: What the run was started with; a worker that finds another refuses.
        device: `cpu` or `cuda`.
        threads: torch threads a worker process uses; 0 leaves torch's own choice.
    """

    directory: str
    digest: str
    device: str = "cpu"
    threads: int = 0

    def load(self) -> LoadedModel:
        """Loads the model.

        Raises:
            InputError: the files changed since the run was started.
        """
        if self.threads:
            torch.set_num_threads(self.threads)
        loaded = load_model(self.directory, self.device)
        if loaded.digest != self.digest:
            raise InputError(
                f"--model {self.directory}: changed during the run (digest {loaded.digest[:12]}, the run was started "
                f"with {self.digest[:12]}); start the run again"
            )
        return loaded

"""The model as a run refers to it: a folder and the digest it must have."""

import dataclasses
import threading

import torch

from pinnerformer_model.checkpoint import CONFIG, WEIGHTS, LoadedModel, load_model, model_digest
from stores.errors import InputError
from stores.locations import absolute
from stores.object_files import copy_folder
from stores.object_stores import is_url


def local_model(location: str, digest: str | None = None) -> str:
    """The local folder of a model: itself, or, of one on an object store, a copy in this machine's cache.

    Args:
        digest: Of the model wanted; saves the download where it is known and was copied before.

    Raises:
        InputError: it cannot be read.
    """
    if not is_url(location):
        return absolute(location)
    try:
        return copy_folder(absolute(location), (CONFIG, WEIGHTS), model_digest, digest)
    except OSError as error:
        raise InputError(
            f"{error.filename}: {error.strerror}; a model is a folder with {CONFIG} and {WEIGHTS}"
        ) from None


@dataclasses.dataclass(frozen=True)
class ModelReference:
    """Names a model without holding it; every process loads it once.

    Attributes:
        directory: With `model.safetensors` and `config.json`; a local path or a URL.
        digest: What the run was started with; a worker that finds another refuses.
        device: `cpu` or `cuda`.
        threads: torch threads a worker process uses; 0 leaves torch's own choice.
    """

    directory: str
    digest: str
    device: str = "cpu"
    threads: int = 0

    def load(self) -> LoadedModel:
        """Loads the model, or gives what this process loaded last, if that is it: canaries, users and pins share one.

        Raises:
            InputError: the files changed since the run was started.
        """
        if self.threads:
            torch.set_num_threads(self.threads)
        with _LOADING:
            key = (self.directory, self.digest, self.device)
            if key not in _LOADED:
                _LOADED.clear()  # one at a time: nobody pays for the model of a night before
                _LOADED[key] = self._read()
            return _LOADED[key]

    def _read(self) -> LoadedModel:
        loaded = load_model(local_model(self.directory, self.digest), self.device)
        # Workers load at different moments: a folder overwritten meanwhile would give a release vectors of two models.
        if loaded.digest != self.digest:
            raise InputError(
                f"--model {self.directory}: changed during the run (digest {loaded.digest[:12]}, the run was started "
                f"with {self.digest[:12]}); start the run again"
            )
        return loaded


_LOADING = threading.Lock()
_LOADED: dict[tuple[str, str, str], LoadedModel] = {}

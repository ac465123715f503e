"""A model on disk: `config.json` and `model.safetensors`. No pickle is ever loaded."""

import contextlib
import dataclasses
import hashlib
import os
import shutil
import tempfile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from pinnerformer_model.config import ModelConfig, ModelError
from pinnerformer_model.initialisation import initialise
from pinnerformer_model.pin_tower import PinTower, build_pin_tower
from pinnerformer_model.user_tower import UserTower, build_user_tower

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready for inference, and the digest that names it."""

    config: ModelConfig
    user_tower: UserTower
    pin_tower: PinTower
    digest: str


def new_model(config: ModelConfig, seed: int, vectors: np.ndarray | None = None) -> tuple[UserTower, PinTower]:
    """Builds both towers with fresh weights; the same seed gives the same weights, whatever was drawn before.

    Args:
        vectors: float [P, D], PinSage vectors: the towers begin in their whitened space; None: in their space rotated.
    """
    user_tower, pin_tower = build_user_tower(config), build_pin_tower(config)
    initialise(user_tower, pin_tower, seed, vectors)
    return user_tower.eval(), pin_tower.eval()


def _tensors(user_tower: UserTower, pin_tower: PinTower) -> dict[str, torch.Tensor]:
    named = {f"user_tower.{name}": value for name, value in user_tower.state_dict().items()}
    named |= {f"pin_tower.{name}": value for name, value in pin_tower.state_dict().items()}
    return {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in sorted(named.items())}


def save_model(
    directory: str, config: ModelConfig, user_tower: UserTower, pin_tower: PinTower, *, overwrite: bool = False
) -> str:
    """Writes a model: a folder beside the target, fsync, rename. Returns its digest.

    Raises:
        ModelError: the directory holds another model and `overwrite` is not set, or holds other files.
    """
    directory = os.path.abspath(directory)
    parent = os.path.dirname(directory)
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".model-", dir=parent)
    try:
        save_file(_tensors(user_tower, pin_tower), os.path.join(temporary, WEIGHTS))
        with open(os.path.join(temporary, CONFIG), "w") as file:
            file.write(config.to_json())
        for name in (CONFIG, WEIGHTS):
            with open(os.path.join(temporary, name), "rb+") as synced:
                os.fsync(synced.fileno())
        digest = model_digest(temporary)
        # A folder cannot be replaced by one rename: the old one steps aside first, and is removed when the new one
        # stands.
        if os.path.isdir(directory) and os.listdir(directory):
            strange = sorted(set(os.listdir(directory)) - {CONFIG, WEIGHTS})
            if strange:
                raise ModelError(f"{directory}: is no model folder, it holds {strange[0]}; choose another")
            if not overwrite and model_digest(directory) != digest:
                raise ModelError(f"{directory}: holds another model already; choose another folder or remove it")
            old = tempfile.mkdtemp(prefix=".model-old-", dir=parent)
            os.rename(directory, os.path.join(old, "model"))
            os.rename(temporary, directory)
            shutil.rmtree(old)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(directory)
            os.rename(temporary, directory)
        os.chmod(directory, 0o755)
        return digest
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def model_digest(directory: str) -> str:
    """Hex sha256 over both files, each preceded by its length as 8 bytes, big-endian: config.json, then the weights.

    Raises:
        ModelError: a file is missing.
    """
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        path = os.path.join(directory, name)
        try:
            with open(path, "rb") as file:
                digest.update(os.fstat(file.fileno()).st_size.to_bytes(8, "big"))
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise ModelError(
                f"{path}: {error.strerror}; a model is a folder with {CONFIG} and {WEIGHTS}, "
                "make one with `pinnerformer init-model`"
            ) from None
    return digest.hexdigest()


def load_config(directory: str) -> ModelConfig:
    """Reads `config.json`.

    Raises:
        ModelError: missing or not a config; names the file and the key.
    """
    path = os.path.join(directory, CONFIG)
    try:
        with open(path) as file:
            return ModelConfig.from_json(file.read())
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; make a model with `pinnerformer init-model`") from None
    except (ModelError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {error}") from None


def _build(config: ModelConfig) -> dict[str, nn.Module]:
    return {"user_tower": build_user_tower(config), "pin_tower": build_pin_tower(config)}


class _Unfilled(TorchFunctionMode):
    """Leaves parameters as they are made, for shapes only: to draw normal numbers for `meta`, which holds none, torch
    loads its compiler and sympy, a second of CPU in every process that loads a model."""

    def __torch_function__(self, function, types, arguments=(), named=None):
        named = named or {}
        if getattr(function, "__module__", None) == nn.init.__name__:
            return named["tensor"]
        return function(*arguments, **named)


def _check_shapes(found: dict[str, tuple[int, ...]], config: ModelConfig, path: str) -> None:
    """Makes sure that a file holds exactly the parameters of a config, before there is room made for either.

    Raises:
        ModelError: it does not; names the parameter.
    """
    if config.num_layers > len(found):
        raise ModelError(f"{path}: {len(found)} parameters, {CONFIG} asks for {config.num_layers} layers")
    with torch.device("meta"), _Unfilled():  # shapes only
        towers = _build(config)
    expected = {f"{p}.{name}": tuple(v.shape) for p, tower in towers.items() for name, v in tower.state_dict().items()}
    for name, shape in expected.items():
        if name not in found:
            raise ModelError(f"{path}: no parameter {name}; it does not belong to {CONFIG} beside it")
        if found[name] != shape:
            raise ModelError(f"{path}: {name} is {list(found[name])}, {CONFIG} asks for {list(shape)}")
    if set(found) - set(expected):
        raise ModelError(f"{path}: unknown parameter {sorted(set(found) - set(expected))[0]}")


def load_model(directory: str, device: str = "cpu") -> LoadedModel:
    """Loads a model for inference.

    Raises:
        ModelError: a file is missing, truncated, or does not hold exactly the parameters that the config asks for.
    """
    config = load_config(directory)
    path = os.path.join(directory, WEIGHTS)
    try:
        # The header first: parameters of another config are named before any memory is taken for them.
        with safe_open(path, framework="pt") as file:
            _check_shapes({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}, config, path)
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not readable as safetensors ({error}); write the model again") from None
    towers = _build(config)
    for prefix, tower in towers.items():
        start = len(prefix) + 1
        tower.load_state_dict({name[start:]: v for name, v in found.items() if name.startswith(f"{prefix}.")})
        tower.to(device).eval().requires_grad_(False)
    return LoadedModel(config, towers["user_tower"], towers["pin_tower"], model_digest(directory))  # type: ignore[arg-type]

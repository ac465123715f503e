"""A model on disk: `config.json` and `model.safetensors`. No pickle is ever loaded."""

import contextlib
import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from pinnerformer_model.config import TOWERS, ModelConfig, ModelError
from pinnerformer_model.initialisation import DEFAULT_START, Space, initialise, linear_start, rank_of
from pinnerformer_model.pin_tower import PinTower, build_pin_tower
from pinnerformer_model.training_settings import StartSettings, check_temperature
from pinnerformer_model.user_tower import UserTower, build_user_tower

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TEMPERATURE = "temperature"  # a word of the weights' header
FLOATS = ("F16", "BF16", "F32", "F64")  # as safetensors calls them; what is narrower comes with scales of its own
DECORATIONS = {
    "module",
    "model",
    "state_dict",
    "_orig_mod",
    "_forward_module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready for inference, and the digest that names it."""

    config: ModelConfig
    user_tower: UserTower
    pin_tower: PinTower
    digest: str


def new_model(
    config: ModelConfig,
    seed: int,
    vectors: np.ndarray | Space | None = None,
    settings: StartSettings = DEFAULT_START,
    everybody: np.ndarray | None = None,
) -> tuple[UserTower, PinTower]:
    """Builds both towers with fresh weights, which depend on the seed and on the kind of CPU (`initialise`).

    Args:
        vectors: float [P, D], the corpus that the towers begin as a ridge regression on, or what it looks like; None:
            they begin as a random turn of the vectors' space, and a user as the mean.
        settings, everybody: Of the regression; see `linear_start`.
    """
    user_tower, pin_tower = build_user_tower(config), build_pin_tower(config)
    start = None
    if vectors is not None:
        space = vectors if isinstance(vectors, Space) else Space.of(vectors)
        start = linear_start(space, rank_of(config.hidden_size, config.embedding_dim), settings, everybody)
    initialise(user_tower, pin_tower, seed, start)
    return user_tower.eval(), pin_tower.eval()


def _tensors(user_tower: UserTower, pin_tower: PinTower) -> dict[str, torch.Tensor]:
    named = {f"user_tower.{name}": value for name, value in user_tower.state_dict().items()}
    named |= {f"pin_tower.{name}": value for name, value in pin_tower.state_dict().items()}
    return {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in sorted(named.items())}


def mark_towers(parameters: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    """The mark of each tower: 16 hex digits of a sha256 over the names of its parameters and the signs of their values.

    Signs are what a copy in another floating-point width keeps of every number, zeros and underflow included. Two
    trainings that begin alike differ in some of them from the first training step on.

    Args:
        parameters: (name, values) in any order; a name begins with its tower's.
    """
    digests: dict[str, dict[str, bytes]] = {tower: {} for tower in TOWERS}
    for name, values in parameters:
        signs = np.packbits(torch.signbit(values).numpy())
        digests[name.partition(".")[0]][name] = hashlib.sha256(signs.tobytes()).digest()
    return {
        tower: hashlib.sha256(b"".join(name.encode() + of[name] for name in sorted(of))).hexdigest()[:16]
        for tower, of in digests.items()
    }


def save_model(
    directory: str,
    config: ModelConfig,
    user_tower: UserTower,
    pin_tower: PinTower,
    *,
    temperature: float | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a model: a folder beside the target, fsync, rename. Returns its digest.

    The config of a trained model gets the marks of these two towers: whoever puts one of them beside another's is told.

    Args:
        temperature: Of the loss, where training stopped: a later training goes on from it. It stands in the header of
            the weights, as no parameter: inference has no use for it.
        overwrite: Whether another model there is replaced.

    Raises:
        ModelError: the directory holds another model and `overwrite` is not set, or holds other files.
    """
    directory = os.path.abspath(directory)
    parent = os.path.dirname(directory)
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".model-", dir=parent)
    tensors = _tensors(user_tower, pin_tower)
    config = dataclasses.replace(config, tower_marks=mark_towers(tensors.items()) if config.until else {})
    try:
        header = None if temperature is None else {TEMPERATURE: repr(temperature)}
        save_file(tensors, os.path.join(temporary, WEIGHTS), header)
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


def load_temperature(directory: str) -> float | None:
    """The temperature at which a model's training stopped; None of initial weights and of older models.

    Raises:
        ModelError: the header says something that is no temperature.
    """
    path = os.path.join(directory, WEIGHTS)
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get(TEMPERATURE)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not readable as safetensors ({_what_it_is(path) or error})") from None
    if said is None:
        return None
    try:
        return check_temperature(float(said))
    except ValueError as error:
        raise ModelError(f"{path}: {TEMPERATURE} in its header: {error}; give --temperature") from None


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


def check_model(directory: str) -> tuple[ModelConfig, str]:
    """Looks at every byte of a model before any work begins; makes no room for it.

    Returns:
        Its config, and the digest that names it.

    Raises:
        ModelError: as `load_model`.
    """
    config = load_config(directory)
    path = os.path.join(directory, WEIGHTS)
    marks = mark_towers(_finite(_read_weights(path, config), path))
    strange = [tower for tower in TOWERS if config.tower_marks and marks[tower] != config.tower_marks[tower]]
    if strange:
        raise ModelError(
            f"{path}: {' and '.join(strange)} {'is' if len(strange) == 1 else 'are'} not what {CONFIG} was written "
            "with; towers of two trainings do not belong together: put back both files of one training. If these "
            f"weights were changed on purpose, both towers together, remove tower_marks from {CONFIG}"
        )
    return config, model_digest(directory)


def _finite(parameters: Iterable[tuple[str, torch.Tensor]], path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Passes parameters on. Raises ModelError at one that is not finite in float32."""
    for name, values in parameters:
        if not torch.isfinite(values.to(torch.float32)).all():
            raise ModelError(
                f"{path}: {name} holds NaN, infinity, or a number past float32; the training that wrote it went wrong: "
                "go back to an earlier checkpoint"
            )
        yield name, values


def _read_weights(path: str, config: ModelConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name, values) of the parameters of a config, once all of them are known to be there and to fit.

    Raises:
        ModelError: they do not, or the file is no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            # The header first: parameters of another config are named before any memory is taken for them.
            _check_parameters({n: (tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()}, config, path)
            for name in slices:
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not readable as safetensors ({_what_it_is(path) or error})") from None


def _what_it_is(path: str) -> str | None:
    """What a file that is no safetensors file is instead, and the way out; None where its start does not tell."""
    try:
        with open(path, "rb") as file:
            start, size = file.read(64), os.fstat(file.fileno()).st_size
    except OSError as error:
        return f"{error.strerror}; a model is a folder with {CONFIG} and {WEIGHTS}, see `pinnerformer init-model`"
    if not size:
        return "it is empty; write the model again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; fetch the file itself with `git lfs pull`"
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return "it is a pickle of torch.save, which is never loaded; write it with safetensors.torch.save_file"
    if start.startswith(b"GGUF"):
        return "it is GGUF; write it with safetensors.torch.save_file"
    return None


def _check_parameters(found: dict[str, tuple[tuple[int, ...], str]], config: ModelConfig, path: str) -> None:
    """Makes sure that a file holds exactly the parameters of a config, before there is room made for either.

    Args:
        found: Name -> (shape, dtype as safetensors calls it).

    Raises:
        ModelError: it does not; names the parameter.
    """
    if config.num_layers > len(found):
        raise ModelError(f"{path}: {len(found)} parameters, {CONFIG} asks for {config.num_layers} layers")
    with torch.device("meta"), _Unfilled():  # shapes only
        towers = _build(config)
    expected = {f"{p}.{name}": tuple(v.shape) for p, tower in towers.items() for name, v in tower.state_dict().items()}
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    decorated = next(((name, plain) for name in unknown if (plain := _undecorated(name)) in expected), None)
    if decorated:
        raise ModelError(
            f"{path}: parameter {decorated[0]} is {decorated[1]} under the name that a training framework wraps around "
            f"it; save the state of the module inside (model.module, model._orig_mod), or rename {len(unknown)} "
            "parameters"
        )
    for name in missing[:1]:
        raise ModelError(f"{path}: no parameter {name}; it does not belong to {CONFIG} beside it")
    for name, shape in expected.items():
        if found[name][0] != shape:
            raise ModelError(f"{path}: {name} is {list(found[name][0])}, {CONFIG} asks for {list(shape)}")
    if unknown:
        raise ModelError(f"{path}: unknown parameter {unknown[0]}")
    for name, (_, dtype) in found.items():
        if dtype not in FLOATS:
            raise ModelError(
                f"{path}: {name} is {dtype}, expected one of {', '.join(FLOATS)}: what a quantized number stands for "
                "is not in the file; write the weights as they were before quantization"
            )


def _undecorated(name: str) -> str:
    """A parameter's name without what DDP, FSDP, torch.compile, Lightning and the like put around and into it."""
    return ".".join(part for part in name.split(".") if part not in DECORATIONS)


def load_model(directory: str, device: str = "cpu") -> LoadedModel:
    """Loads a model for inference.

    Raises:
        ModelError: a file is missing, truncated or not what its name says; does not hold exactly the parameters that
            the config asks for, as floating-point numbers; or one of them is not finite.
    """
    config, digest = check_model(directory)
    found = dict(_read_weights(os.path.join(directory, WEIGHTS), config))
    towers = _build(config)
    for prefix, tower in towers.items():
        start = len(prefix) + 1
        tower.load_state_dict({name[start:]: v for name, v in found.items() if name.startswith(f"{prefix}.")})
        tower.to(device).eval().requires_grad_(False)
    return LoadedModel(config, towers["user_tower"], towers["pin_tower"], digest)  # type: ignore[arg-type]

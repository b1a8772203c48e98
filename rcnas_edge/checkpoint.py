"""Weights on disk: a folder with weights.safetensors and JSON beside it; nothing that needs code to unpickle.

Files appear whole (written aside, flushed, renamed), so that a kill at any moment leaves the old or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnas_edge.errors import InputError
from rcnas_edge.reading import MOST_TEXT, read_limited

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from rcnas_edge.nets import NetworkConfig

WEIGHTS = "weights.safetensors"
NETWORK = "network.json"
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""Of every entry of a zip, so that the same content gives the same bytes."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, flush it to disk and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(aside)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)  # some writers make files that only their owner can read; these are for others too
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write JSON values whole; keys sorted as given, two spaces deep."""
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda aside: aside.write_text(text))


def read_json(path: Path) -> Any:
    """Read JSON values; InputError names a file that is missing or not JSON."""
    try:
        return json.loads(read_limited(path, MOST_TEXT, "a JSON file"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} must be a JSON file, it is not: {error}; delete it to have it made again") from error


def digest_of(values: Any) -> str:
    """Sixteen hex digits that identify JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_state(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Tensors and JSON values in one safetensors file, so that they can never be of two different moments."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}

    def write(aside: Path) -> None:
        try:
            save_file(plain, str(aside), metadata={"values": json.dumps(values)})
        except SafetensorError as error:  # what the system refuses reaches us as words alone
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error

    write_whole(path, write)


def read_state(path: Path, *, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The opposite of `write_state`; InputError names a file that is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            values = json.loads((file.metadata() or {}).get("values", "{}"))
            if not isinstance(values, dict):
                raise ValueError("its values are no table")
            return {name: file.get_tensor(name) for name in file.keys()}, values  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} must be a whole safetensors file, it is not: {error}") from error


@dataclass(frozen=True)
class Checkpoint:
    """A trained network on disk: its family, its configuration and what is known of it."""

    family: str
    network: dict[str, Any]
    facts: dict[str, Any]
    folder: Path

    @property
    def sha256(self) -> str:
        """Of the weights' file."""
        return file_sha256(self.folder / WEIGHTS)

    def build(self) -> tuple[nn.Module, NetworkConfig]:
        """The network with its weights, in eval mode, and its configuration."""
        from rcnas_edge.nets import family

        kind = family(self.family)
        config = kind.config(self.network)
        size = (self.folder / WEIGHTS).stat().st_size
        try:
            params = sum(layer.parameters for layer in kind.layers(config))
        except ValueError as error:
            raise InputError(f"{self.folder / NETWORK} must describe a network, it does not: {error}") from error
        if params > size:  # told before anything of that size is made
            raise InputError(
                f"{self.folder / WEIGHTS} must hold the weights of the network, it has {size} bytes and "
                f"{self.folder / NETWORK} describes {params} parameters: copy both"
            )
        model = kind.build(config)
        tensors, _ = read_state(self.folder / WEIGHTS)
        assign_weights(model, tensors, self.folder / WEIGHTS)
        return model.eval(), config


def write_checkpoint(
    folder: Path, model: nn.Module, config: NetworkConfig, *, family: str, facts: Mapping[str, Any]
) -> Checkpoint:
    """Write weights, then the JSON that makes the folder a checkpoint."""
    write_state(folder / WEIGHTS, model.state_dict(), {})
    values = {"schema": 1, "family": family, "network": config.to_dict(), "facts": dict(facts)}
    write_json(folder / NETWORK, {**values, "sha256": file_sha256(folder / WEIGHTS)})
    return Checkpoint(family, config.to_dict(), dict(facts), folder)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Open a checkpoint folder; InputError names what is missing, of another version, or not the weights described."""
    values = read_json(folder / NETWORK)
    if not isinstance(values, dict) or values.get("schema") != 1 or not {"family", "network", "facts"} <= set(values):
        raise InputError(f"{folder / NETWORK} must describe a checkpoint of schema 1, it does not: train it again")
    kinds = {"family": str, "network": dict, "facts": dict}
    if not all(isinstance(values[name], kind) for name, kind in kinds.items()):
        raise InputError(
            f"{folder / NETWORK} must name a family and hold a network and facts, it does not: copy it anew"
        )
    checkpoint = Checkpoint(values["family"], values["network"], values["facts"], folder)
    if not (folder / WEIGHTS).is_file() or checkpoint.sha256 != values.get("sha256"):
        raise InputError(f"{folder / WEIGHTS} must be the file that {NETWORK} names by sha256, it is not: copy both")
    return checkpoint


def load_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors or a weights-only PyTorch file; anything that needs code to unpickle is refused."""
    if not path.is_file():
        raise InputError(f"--weights is a file, {path} is not one")
    if path.suffix == ".safetensors":
        return read_state(path)[0]
    import torch

    _check_archive(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a file that is not plain weights
        words = re.sub(r"\x1b\[[0-9;]*m", "", str(error)) or type(error).__name__
        reason = "".join(letter if letter.isprintable() else "?" for letter in words.splitlines()[0].split(". ")[0])
        raise InputError(
            f"weights are a safetensors file or a state dict that torch loads with weights_only=True, {path} is not "
            f"({reason}): save model.state_dict()"
        ) from error
    for key in ("state_dict", "model", "net"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in loaded.items()
    ):
        raise InputError(
            f"a weights file holds a state dict (names to tensors), {path} holds a {type(loaded).__name__}"
        )
    return loaded


def _check_archive(path: Path) -> None:
    """InputError if a PyTorch file unpacks to more than it is: torch itself never compresses one."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # the older format, or nothing that torch reads
    if unpacked > path.stat().st_size:
        raise InputError(
            f"a weights file is as large as its tensors, {path} has {path.stat().st_size} bytes and would unpack to "
            f"{unpacked}: save model.state_dict() anew"
        )


def assign_weights(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict strictly; a `module.` prefix is taken off; InputError names the first misfit."""
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    try:
        model.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        misfit = " ".join(str(error).split())[:300]
        raise InputError(f"the weights in {path} must fit the network, they do not: {misfit}") from error


def pack(state: Any, tensors: dict[str, Tensor], path: str = "state") -> Any:
    """Nested dicts and lists with tensors as JSON values; the tensors go into `tensors` under their path."""
    if isinstance(state, Mapping):
        return {str(key): pack(value, tensors, f"{path}.{key}") for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [pack(value, tensors, f"{path}.{index}") for index, value in enumerate(state)]
    if hasattr(state, "detach"):
        tensors[path] = state
        return {"tensor": path}
    return state


def unpack(values: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The opposite of `pack`."""
    if isinstance(values, Mapping):
        if set(values) == {"tensor"}:
            return tensors[values["tensor"]]
        return {key: unpack(value, tensors) for key, value in values.items()}
    if isinstance(values, list):
        return [unpack(value, tensors) for value in values]
    return values

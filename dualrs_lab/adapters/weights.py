"""Files of weights, read as plain tensors: what is a program, or a pickle, is refused with the way out."""

import sys
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dualrs_lab.models.reading import want_finite, why_not_read

__all__ = ["Weights", "read_weights"]


_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params", "ema")


_PREFIXES = ("module.", "_orig_mod.", "model.")


class Weights(NamedTuple):
    """Tensors by name, and the architecture that the file names, if it does."""

    state: dict[str, Tensor]
    arch: str = ""


def read_weights(path: Path | str) -> Weights:
    """The tensors of a .safetensors, or of what torch saves as a state dict, on its own or in a dict.

    Prefixes that training in parallel or a compiler puts before all names are dropped. Only tensors and plain
    values are read; a whole network that was pickled, and any other file, is a ValueError that says what to
    do.
    """
    path = Path(path)
    want_weights_file(path)
    if path.suffix == ".safetensors":
        try:
            return Weights(_plain_names(want_finite("read_weights", path, load_file(path))))
        except (
            Exception
        ) as error:  # safetensors and torch raise different types for a damaged or foreign file
            if isinstance(error, ValueError):
                raise
            raise ValueError(f"read_weights: {path} is no whole file of safetensors: {error}") from error
    held: Any = _unpacked(path)
    arch = held.get("arch", "") if isinstance(held, Mapping) else ""
    for name in _WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(name), Mapping):
            held = held[name]
    state = _plain_names(want_finite("read_weights", path, held))
    return Weights(state, arch if isinstance(arch, str) else "")


def want_weights_file(path: Path, what: str = "no file") -> None:
    """FileNotFoundError or ValueError unless there is a regular file at `path`."""
    if not path.exists():
        raise FileNotFoundError(f"load_network: {what} {path}")
    if not path.is_file():
        raise ValueError(f"load_network: {path} is no regular file; wanted a file of weights or a network")


def _unpacked(path: Path) -> object:
    try:
        with warnings.catch_warnings():  # of torch, about pickles that it refuses then
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for what is damaged, foreign or hostile
        raise ValueError(
            f"read_weights: {path} cannot be read as plain tensors: {why_not_read(error)}. If it is a whole "
            "network that was pickled, and you trust it, save its weights once, where it was made: "
            "`from safetensors.torch import save_file` and `save_file(network.state_dict(), "
            "'network.safetensors')`; then name the network (torchvision:NAME, timm:NAME, module:factory) "
            "with weights=network.safetensors (--weights)"
        ) from None


def _plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if not state:
        raise ValueError("read_weights: the file holds no tensor; wanted the weights of a network")
    for prefix in _PREFIXES * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def fill_in(network: nn.Module, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """`network` with these weights; ValueError that says which do not fit."""
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        told = " ".join(str(error).split())[:600]
        raise ValueError(
            f"load_network: {source}: the weights are not those of this network: {told}"
        ) from None
    return network.eval()


def members(path: Path) -> tuple[str, ...]:
    """The names in a zip archive, as torch makes them; none where the file is no such archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return ()


_guarded = threading.local()


_hooks: list[object] = []  # an audit hook stays as long as the process: one is enough


def _refuse_globals(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class" and getattr(_guarded, "on", False):
        raise ValueError(f"it wants to run {arguments[0]}.{arguments[1]} of a pickle")


@contextmanager
def nothing_unpickled(source: str) -> Iterator[None]:
    """Within, libraries that would unpickle code when tensors do not suffice are stopped, by this thread.

    torch.export and the hubs fall back to Python's unpickler; its look-up of a function raises an audit
    event.
    """
    if not _hooks:
        sys.addaudithook(_refuse_globals)
        _hooks.append(_refuse_globals)
    _guarded.on = True
    try:
        yield
    except Exception as error:
        chain: BaseException | None = error
        while chain is not None:
            if "of a pickle" in str(chain):
                raise ValueError(
                    f"load_network: {source}: {chain}; nothing in a file is ever run: save it with plain "
                    "tensors only, or its weights as safetensors"
                ) from None
            chain = chain.__cause__ or chain.__context__
        raise
    finally:
        _guarded.on = False

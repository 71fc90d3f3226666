"""What is said of a network behind the name of its file, since its weights do not tell it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Choices", "read_choices"]


_CHOICES = ("activation=relu", "size=128", "mean=X,X,X", "std=X,X,X")


class Choices(NamedTuple):
    """The activation of DeepMind's networks, the side to which images are brought, and the normalisation."""

    relu: bool = False
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def read_choices(name: str) -> tuple[Path, Choices]:
    """`FILE?key=value&…` in its parts; ValueError, with what may be said, for other words."""
    file, _, said = name.partition("?")
    words = [word.partition("=")[::2] for word in said.split("&") if word]
    try:
        values = {key: _READ[key](text) for key, text in words}
    except (KeyError, ValueError):
        raise ValueError(
            f"load_network: robustbench:{name}: wanted {', '.join(_CHOICES)}, joined by &, after the ?"
        ) from None
    if len(values) < len(words) or ("mean" in values) != ("std" in values):
        raise ValueError(f"load_network: robustbench:{name}: wanted each once, and mean with std")
    return Path(file), Choices(relu=bool(values.pop("activation", False)), **values)


def _relu(text: str) -> bool:
    if text != "relu":
        raise ValueError(text)
    return True


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


_READ: dict[str, Callable[[str], Any]] = {"activation": _relu, "size": int, "mean": _numbers, "std": _numbers}

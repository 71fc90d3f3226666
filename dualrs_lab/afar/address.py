"""Addresses as people write them, and as lines and records tell them: never with a password or a key."""

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "WEB",
    "address_text",
    "by_address",
    "is_afar",
    "is_file_afar",
    "last_name",
    "note_copy",
    "say",
    "size_text",
    "want_no_secret",
    "without_secrets",
]


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(?:::|://)\S")


WEB = ("http://", "https://")
"""How addresses begin that are only read, and that may be networks as well."""


# Of a network behind http(s), which is a black box by its address, these are files.
_NETWORKS = (".safetensors", ".pt2", ".onnx", ".pt", ".pth")


_SECRET = re.compile(
    r"([?&;][^=&\s]*(?:token|key|secret|sig|signature|password|passwd|credential|auth)[^=&\s]*)=[^&\s'\"]+",
    re.IGNORECASE,
)


_PASSWORD = re.compile(r"https?://[^\s/@'\"]+@|\w://[^\s/@'\"]*:[^\s/@'\"]*@")


_USER = re.compile(r"(\w://)[^\s/@'\"]*@")


_COPIES: dict[str, str] = {}  # places here, and the addresses that they stand for, in this process


def is_afar(place: object) -> bool:
    """Whether `place` is an address, and no file here of that name."""
    return isinstance(place, str) and bool(_ADDRESS.match(place)) and not os.path.lexists(place)


def is_file_afar(source: str) -> bool:
    """Whether an address that names a network is that of a file: behind http(s), only with such an ending.

    Any other http(s) address is a black box that answers; `simplecache::https://…` is a file in any case.
    """
    if not is_afar(source):
        return False
    return not source.startswith(WEB) or last_name(source).endswith(_NETWORKS)


def last_name(address: str) -> str:
    """What an address ends in, before a query."""
    return re.split(r"[?#]", address)[0].rsplit("/", 1)[-1]


def address_text(address: object) -> str:
    """An address as lines, records and errors tell it: without a password or a key."""
    text = str(address)
    return re.sub(r"[?#].*", "", _USER.sub(r"\1", text)) if "://" in text else text


def without_secrets(text: str) -> str:
    """Text such as another program's error, without what its URLs hold between // and @, or after ?."""
    return re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\"]+", r"\1", _USER.sub(r"\1", text))


def want_no_secret(call: str, words: Iterable[object], where: str) -> None:
    """ValueError where a word is an address with a password or a key, which would be kept in `where`."""
    for word in words:
        text = str(word)
        if "://" in text and (_PASSWORD.search(text) or _SECRET.search(text)):
            raise ValueError(
                f"{call}: {address_text(text)} holds a password or a key, which would be kept in {where}; "
                "leave it out, and give it to that protocol by the environment or a file of credentials"
            )


def say(line: str) -> None:
    """A line for whoever watches, apart from what a command answers."""
    print(f"dualrs-lab: {line}", file=sys.stderr, flush=True)


def note_copy(place: Path, address: str) -> None:
    """From now on, `by_address` tells `place`, here, as the address that it stands for."""
    _COPIES[str(place)] = address_text(address)


def by_address(text: object) -> str:
    """`text` with the addresses of what is here in place of where it is here."""
    told = str(text)
    for place in sorted(_COPIES, key=len, reverse=True):
        told = told.replace(place, _COPIES[place])
    return told


def size_text(size: float) -> str:
    """A number of bytes for a person."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.3g} GB"

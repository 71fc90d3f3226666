"""One file, or one folder, at an address: what it is known by there, and its bytes, through fsspec.

fsspec is an extra, and which protocols there are is for it to say. Whatever a file system raises becomes one
line that names the address.
"""

import errno
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from dualrs_lab.afar.address import WEB, address_text, last_name, without_secrets

__all__ = ["OWN_CACHES", "Far", "Version", "safe_name", "telling"]


_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}
_PACKAGES |= dict.fromkeys(("http", "https"), "aiohttp")


_REMEDY = "see that the address is right, and that you may read it"


OWN_CACHES = re.compile(r"^(?:(?:simplecache|filecache|blockcache)::)+")


# By what a file is told from the one that was there before, as far as its file system says it.
_SIGNS = {"etag", "versionid", "version_id", "generation", "checksum", "blob_id", "oid", "crc", "crc32c"}
_SIGNS |= {"md5hash", "content_md5", "content-md5", "digest", "ino", "mtime", "created", "updated"}
_SIGNS |= {"lastmodified", "last_modified", "last-modified"}


@contextmanager
def telling(call: str, address: str, what: str) -> Iterator[None]:
    """What a file system raises, as one line that names `address`; nothing else of it is kept."""
    where = f"{call}: {address_text(address)}"
    try:
        yield
    except _ToldError:
        raise
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{where} not found; see that the address is right, and that you may read it"
        ) from None
    except PermissionError as error:
        raise PermissionError(f"{where} cannot be {what}: {_why(error)}; see to the right to it") from None
    except Exception as error:  # each file system has its own
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(error.errno, f"{error.strerror} while it is {what}", where) from None
        raise OSError(f"{where} cannot be {what}: {_why(error)}; the same call again tries anew") from None


def _why(error: Exception) -> str:
    text = without_secrets(" ".join(str(error).split()))[:300]
    return text or type(error).__name__


class _ToldError(ValueError):
    """An error that is one line of ours already."""


@dataclass(frozen=True)
class Far:
    """What is at `address`, through the file system `fs` that it names; `path` is what that calls it."""

    call: str
    address: str
    fs: Any
    path: str

    @classmethod
    def open(cls, call: str, address: str) -> "Far":
        """ValueError that says what to install, or that nobody knows the protocol; nothing is read yet."""
        plain = OWN_CACHES.sub("", address)  # the cache here knows when a file has changed
        names = [part.partition("://")[0] for part in plain.split("::")]
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise _lacking(call, address, "fsspec") from None
        try:
            fs, path = url_to_fs(plain, skip_instance_cache=True, **_options(names))
        except ImportError as error:
            package = next((_PACKAGES[name] for name in names if name in _PACKAGES), "")
            raise _lacking(call, address, package or _why(error)) from None
        except ValueError as error:
            raise _ToldError(f"{call}: {address_text(address)}: {_why(error)}") from None
        except Exception as error:  # credentials that are missing or refused, each in its own way
            raise _ToldError(f"{call}: {address_text(address)} cannot be opened: {_why(error)}") from None
        return cls(call, address, fs, path)

    @property
    def told(self) -> str:
        """The address as people may see it."""
        return address_text(self.address)

    @property
    def is_web(self) -> bool:
        """Whether it is behind http(s), where a name may be followed by a query."""
        return self.path.startswith(WEB)

    @property
    def name(self) -> str:
        """The last part of its path, as a file here is to be called; ValueError for what is no such name."""
        path = self.path if not self.address.endswith("/") else ""  # which some file systems drop
        return safe_name(self.call, last_name(path) if self.is_web else path.rsplit("/", 1)[-1])

    def beside(self, name: str) -> str:
        """The path of `name` in the folder of this file."""
        end = re.search(r"[?#].*|$", self.path)[0] if self.is_web else ""  # type: ignore[index]
        whole = self.path.removesuffix(end)
        return whole[: len(whole) - len(whole.rsplit("/", 1)[-1])] + name + end

    def look(self, path: str) -> "Version | None":
        """What the file there is known by at this moment; None where there is none."""
        with telling(self.call, self.address, "read"):
            try:
                info = self.fs.info(path)
            except FileNotFoundError as error:
                _want_absent(error)
                return None
        if info.get("type") == "directory":
            raise _ToldError(f"{self.call}: {self.told} is a folder; wanted a file")
        return Version.of(info)

    def want(self, path: str) -> "Version":
        """What the file there is known by; FileNotFoundError where there is none."""
        if (version := self.look(path)) is None:
            raise FileNotFoundError(f"{self.call}: {self.told} not found; {_REMEDY}")
        return version

    def get(self, path: str, version: "Version", here: Path) -> None:
        """Bring the file of that path, whole, to `here`, which is new."""
        with telling(self.call, self.address, "fetched"):
            self.fs.get_file(path, str(here))
            if version.size is not None and here.stat().st_size != version.size:
                raise OSError(f"{here.stat().st_size} bytes came of {version.size}")
            with here.open("rb") as file:
                os.fsync(file.fileno())


@dataclass(frozen=True)
class Version:
    """What tells a file from another version of it: `known` is empty where its file system says nothing."""

    known: Mapping[str, str]
    size: int | None

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "Version":
        """The version in what a file system tells of a file."""
        known = {name.lower(): str(value) for name, value in info.items() if name.lower() in _SIGNS and value}
        if [*known] == ["last-modified"] and _just_now(known["last-modified"]):
            known = {}  # of the same second may be another version
        return cls(dict(sorted(known.items())), info.get("size"))

    @property
    def text(self) -> str:
        """As it is kept."""
        return json.dumps([dict(self.known), self.size])


def _just_now(http_date: str) -> bool:
    with suppress(ValueError):
        return time.time() - parsedate_to_datetime(http_date).timestamp() < 60
    return True


def _want_absent(error: FileNotFoundError) -> None:
    # fsspec says "not found" of http whatever went wrong; the cause says what did
    status = getattr(error.__cause__, "status", None)
    if error.__cause__ is not None and status not in (None, 403, 404, 410):
        raise OSError(f"HTTP {status}") from None
    if error.__cause__ is not None and status is None and "aiohttp" in type(error.__cause__).__module__:
        raise OSError(str(error.__cause__) or type(error.__cause__).__name__) from None


def _lacking(call: str, address: str, package: str) -> ValueError:
    return _ToldError(
        f"{call}: {address_text(address)} is not on this machine, and to reach it takes {package}: "
        "pip install 'dualrs-lab[afar]'"
    )


def _options(protocols: Iterable[str]) -> dict[str, Any]:
    # aiohttp ends every request after five minutes, however well it goes
    named = [name for name in protocols if f"{name}://" in WEB]
    if not named:
        return {}
    import aiohttp

    limits = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    options = {"client_kwargs": {"timeout": limits}}
    return options if [*protocols] == named else {named[0]: options}


def safe_name(call: str, name: str) -> str:
    """`name`, which can be that of one file in a folder here and leads nowhere else; else ValueError."""
    if name in ("", ".", "..") or re.search(r"[/\\\x00-\x1f\x7f]", name) or len(name.encode()) > 200:
        raise _ToldError(f"{call}: {name!r} is no name for a file; wanted an address that ends in one")
    return name

"""A network behind an address: a batch goes there by HTTP, logits or labels come back.

A POST holds the images as float32 (N, C, H, W) in [0, 1]: an .npy file (`application/x-npy`), or JSON
`{"images": [...]}`. The reply is an .npy array or JSON: logits (N, classes) or labels (N,), plain or under
the key "logits" or "labels". Nothing in a reply is unpickled.
"""

import http.client
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.adapters.outside import Outside
from dualrs_lab.files import digest

__all__ = ["Endpoint", "ask_endpoint"]


_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)  # HTTP's codes for what another time may bring


_MOST = 1 << 28  # bytes of a reply


@dataclass(kw_only=True)
class Endpoint:
    """Asks `url`; called with images, gives what came back.

    A request that fails as networks do (no connection, no answer within `timeout` seconds, "busy") is sent
    again, `retries` times, after `backoff` seconds and then twice as long each time, or after what the server
    asks for. `rate` is the most requests a second, None for any. Raises ConnectionError when it gives up,
    ValueError for an answer that another try would not change.
    """

    url: str
    sends: str = "npy"  # or "json"
    timeout: float = 30.0
    retries: int = 4
    backoff: float = 0.5
    rate: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    sleep: Callable[[float], None] = field(default_factory=lambda: time.sleep)
    _next: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        numbers = (self.timeout, self.backoff, *([] if self.rate is None else [self.rate]))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"Endpoint: got {self.shown!r}; wanted an address such as http://127.0.0.1:8000/predict"
            )
        if self.sends not in ("npy", "json"):
            raise ValueError(f"Endpoint: got sends {self.sends!r}; wanted 'npy' or 'json'")
        if self.retries < 0 or not all(number > 0 for number in numbers):
            raise ValueError("Endpoint: wanted timeout, backoff and rate above 0, and retries of at least 0")
        own = parts.hostname in ("localhost", "127.0.0.1", "::1")  # a proxy is not asked for this machine
        self._opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if own else []))

    @property
    def shown(self) -> str:
        """The address as records and errors tell it: without a password or a key."""
        parts = urlsplit(self.url)
        host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
        return f"{parts.scheme}://{host}{parts.path}"

    def __call__(self, images: NDArray[np.float32]) -> Any:
        body, kind = _packed(images, self.sends)
        begun, wait = time.monotonic(), self.backoff
        for left in range(self.retries, -1, -1):
            try:
                return _unpacked(self.shown, *self._sent(body, kind))
            except _Again as error:
                if not left:
                    raise ConnectionError(
                        f"Endpoint: {self.shown} gave no answer in {self.retries + 1} tries and "
                        f"{time.monotonic() - begun:.0f} s ({error}); images that were done are kept: make "
                        "the same call again when it answers, and it goes on"
                    ) from error
                self.sleep(wait if error.after is None else max(wait, error.after))
                wait *= 2
        raise AssertionError("unreachable")

    def _sent(self, body: bytes, kind: str) -> tuple[bytes, str]:
        if self.rate is not None:
            now = time.monotonic()
            if self._next > now:
                self.sleep(self._next - now)
            self._next = max(now, self._next) + 1 / self.rate
        accepts = "application/x-npy, application/json"
        headers = {"Content-Type": kind, "Accept": accepts, **self.headers}
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.timeout) as reply:
                return reply.read(_MOST + 1), reply.headers.get_content_type()
        except urllib.error.HTTPError as error:
            told = f"HTTP {error.code} {error.reason}"
            if error.code in _TRY_AGAIN:
                raise _Again(told, error.headers.get("Retry-After")) from error
            more = error.read(300).decode("utf-8", "replace").strip()
            raise ValueError(
                f"Endpoint: {self.shown} refuses the images: {told}{more and ': '}{more}; wanted an endpoint "
                "that takes this POST, see docs/own_network.md"
            ) from error
        except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
            raise _Again(str(getattr(error, "reason", "") or error) or type(error).__name__) from error


def ask_endpoint(
    url: str, *, classes: int | Sequence[str] | None = None, batch: int = 200, **how: Any
) -> Outside:
    """The network behind `url`, asked for at most `batch` images at a time; `how` is as of `Endpoint`.

    `classes` must be known where labels come back. Tables know it by its address and by its answers to fixed
    images.
    """
    endpoint = Endpoint(url=url, **how)
    kind = f"the endpoint {endpoint.shown}"
    return Outside(endpoint, kind=kind, identity=digest(kind), classes=classes, batch=batch, arrays=True)


class _Again(Exception):
    # what another try may change, and after how many seconds the server wants it

    def __init__(self, told: str, after: str | None = None) -> None:
        super().__init__(told)
        self.after = min(float(after), 60.0) if after and after.strip().isdecimal() else None


def _packed(images: NDArray[np.float32], sends: str) -> tuple[bytes, str]:
    if sends == "json":
        return json.dumps({"images": images.tolist()}).encode(), "application/json"
    file = io.BytesIO()
    np.save(file, images, allow_pickle=False)
    return file.getvalue(), "application/x-npy"


def _unpacked(shown: str, body: bytes, kind: str) -> Any:
    if len(body) > _MOST:
        raise ValueError(f"Endpoint: {shown} sent more than {_MOST} bytes; wanted logits or labels")
    try:
        if body.startswith(b"\x93NUMPY"):
            return np.load(io.BytesIO(body), allow_pickle=False)
        found = json.loads(body)
        if isinstance(found, dict):
            found = found["logits"] if "logits" in found else found["labels"]
        return np.asarray(found)
    except (ValueError, KeyError, TypeError, RecursionError, EOFError):
        start = body[:60].decode("utf-8", "replace")
        raise ValueError(
            f"Endpoint: {shown} sent {kind} that begins {start!r}; wanted an .npy array or JSON of logits "
            "or labels"
        ) from None

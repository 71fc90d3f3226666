"""File systems that behave badly, and a web server on loopback: what an address may be like."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class BadFileSystem(MemoryFileSystem):
    """In memory, at bad://; does what `mischief` says, as often as that says."""

    protocol = ("bad", "memory")
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    mischief: ClassVar[dict[str, Any]] = {}
    done: ClassVar[list[tuple[str, str]]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("bad://", "memory://"))

    def get_file(self, rpath: str, lpath: str, **_: object) -> None:
        self.done.append(("get", rpath))
        if before := self.mischief.pop("before get", None):
            before()
        data = self.cat_file(rpath)
        with open(lpath, "wb") as file:
            file.write(data[: len(data) // 2] if "cut get" in self.mischief else data)
        if error := self.mischief.pop("fail get", None):
            raise error
        self.mischief.pop("cut get", None)
        if after := self.mischief.pop("after get", None):
            after()

    def put_file(self, lpath: str, rpath: str, **_: object) -> None:
        self.done.append(("put", rpath))
        with open(lpath, "rb") as file:
            data = file.read()
        wanted = self.mischief.get("fail put of", "")
        if wanted and wanted in rpath:
            self.pipe_file(rpath, data[: len(data) // 2])
            self.mischief.pop("fail put of")
            raise ConnectionError("the line is down at bad://user:pass@host/x?token=abc")
        self.pipe_file(rpath, data)

    def find(self, path: str, detail: bool = False, **more: Any) -> Any:
        found = super().find(path, detail=True, **more)
        for name in self.mischief.get("lists", ()):
            found[name] = {"name": name, "size": 1, "type": "file", "created": 0}
        return found if detail else [*found]


def register() -> None:
    """Make bad:// known, and empty."""
    fsspec.register_implementation("bad", BadFileSystem, clobber=True)
    for system in (BadFileSystem, MemoryFileSystem):
        system.store.clear()
        system.pseudo_dirs[:] = [""]
    BadFileSystem.mischief.clear()
    BadFileSystem.done.clear()


class Web:
    """What a server has, by path; `faults` are what it answers to some paths instead."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.tags = True
        self.faults: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[tuple[str, str]] = []
        self.url = ""


@contextmanager
def on_the_web() -> Iterator[Web]:
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0].lstrip("/")
            web.asked.append((self.command, self.path))
            if path in web.faults:
                web.faults[path](self)
                return
            if path not in web.files:
                self.send_error(404)
                return
            data = web.files[path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            if web.tags:
                self.send_header("ETag", f'"{hash(data)}"')
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""An endpoint on loopback, as somebody may have one: POST of images, logits or labels back."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray

Reply = tuple[int, bytes, str]


class Served:
    """What came, and what goes back; `status` other than 200 goes back as it is, once for each."""

    def __init__(self, answer: Callable[[NDArray[np.float32]], Any], reply: str) -> None:
        self.answer, self.reply = answer, reply
        self.batches: list[tuple[int, ...]] = []
        self.faults: list[int] = []
        self.dies_after = -1
        self.url = ""

    def replied(self, body: bytes, kind: str) -> Reply:
        if self.faults:
            return self.faults.pop(0), b"busy", "text/plain"
        if kind == "application/json":
            images = np.asarray(json.loads(body)["images"], dtype=np.float32)
        else:
            images = np.load(io.BytesIO(body), allow_pickle=False)
        self.batches.append(images.shape)
        found = self.answer(images)
        if self.reply == "npy":
            file = io.BytesIO()
            np.save(file, found)
            return 200, file.getvalue(), "application/x-npy"
        return 200, json.dumps({self.reply: np.asarray(found).tolist()}).encode(), "application/json"


@contextmanager
def serving(answer: Callable[[NDArray[np.float32]], Any], reply: str = "labels") -> Iterator[Served]:
    served = Served(answer, reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if 0 <= served.dies_after <= len(served.batches):
                self.connection.close()  # as a process that was killed
                return
            status, data, kind = served.replied(body, self.headers["Content-Type"])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_address[1]}/predict"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""The front page and the explorer are served to whoever may open notebooks, and to nobody else."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dualrs_lab.home import launch

ROOT = Path(__file__).parents[2]
OTHERS = ("jupyterlab", "jupyter_lsp", "jupyter_server_terminals", "notebook_shim", "voila.server_extension")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app, but without Voilà: the address of its server, whose token is `t`."""
    root, home = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("home")
    (root / "notebooks").mkdir()
    cell = {"cell_type": "markdown", "metadata": {}, "source": "# 10 · A lesson"}
    nb = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    (root / "notebooks" / "10 x.ipynb").write_text(json.dumps(nb))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rest = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token=t"]
    command, environment = launch(root / "notebooks", rest, app=False)
    kept = [word for word in command[3:] if not word.startswith(("--LabApp", "--ServerApp.jpserver_ext"))]
    extensions = {"dualrs_lab.home.server": True} | dict.fromkeys(OTHERS, False)
    command = [*command[:2], "jupyter_server", *kept, f"--ServerApp.jpserver_extensions={extensions}"]
    environment |= {"PYTHONPATH": str(ROOT)}
    environment |= {f"JUPYTER_{name}_DIR": str(home / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/api/status?token=t", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("the server did not answer")


def read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return str(answer.read().decode())


def wait_for_more(address: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and "Reading all tables" in read(address):
        time.sleep(0.2)


def test_the_front_page_names_what_is_there(server: str) -> None:
    page = read(f"{server}/dualrs?token=t")
    assert '<a href="/voila/render/notebooks/10%20x.ipynb">10 · A lesson</a>' in page
    assert '<a href="/dualrs/board">The explorer</a>' in page


def test_a_stranger_is_asked_who_he_is(server: str) -> None:
    for path in ("dualrs", "dualrs/board"):
        assert "/login?next=" in urllib.request.urlopen(f"{server}/{path}", timeout=60).geturl()


def test_what_the_explorer_lacks_is_said(server: str) -> None:
    assert "Reading all tables" in read(f"{server}/dualrs/board?token=t")
    with pytest.raises(urllib.error.HTTPError, match="there are no tables in runs/files or data"):
        wait_for_more(f"{server}/dualrs/board?token=t")

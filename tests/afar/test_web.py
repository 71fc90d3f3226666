"""Files behind http are read as any other, from a real server on loopback; nothing is sent there."""

import socket
import struct
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import torch

from dualrs_lab.__main__ import main
from dualrs_lab.adapters import load_network
from dualrs_lab.evidence import read_table
from dualrs_lab.models import make_model, save_checkpoint
from tests.adapters.served import serving
from tests.afar.disks import Web, on_the_web
from tests.cli.test_main import DIGITS
from tests.faults.deaths import make

pytest.importorskip("aiohttp", reason="http(s) needs aiohttp: pip install 'dualrs-lab[afar]'")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    make(tmp_path / "here" / "t.tsv")
    with on_the_web() as found:
        for path in (tmp_path / "here").iterdir():
            found.files[path.name] = path.read_bytes()
        yield found


def fetched(web: Web) -> int:
    return sum(asked == ("GET", "/t.tsv") for asked in web.asked)


def test_a_table_is_fetched_once_while_its_etag_stays(web: Web, tmp_path: Path) -> None:
    for _ in range(2):
        assert read_table(f"{web.url}/t.tsv").attrs["identity"] == {"alpha": 0.01}
    assert fetched(web) == 1
    make(tmp_path / "other" / "t.tsv", alpha=0.02)
    for name in ("t.tsv", "t.json"):
        web.files[name] = (tmp_path / "other" / name).read_bytes()
    assert {*read_table(f"{web.url}/t.tsv")["alpha"]} == {0.02}
    assert fetched(web) == 2


def test_where_a_server_says_nothing_of_versions_it_is_fetched_each_time(web: Web) -> None:
    web.tags = False
    for _ in range(2):
        read_table(f"{web.url}/t.tsv")
    assert fetched(web) == 2


def test_a_key_in_a_query_goes_with_the_file_and_its_record_and_is_not_told(
    web: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", f"{web.url}/t.tsv?token=secret"]) == 0
    said = capsys.readouterr()
    assert "secret" not in said.out + said.err
    assert said.out.startswith(f"{web.url}/t.tsv: certified")
    assert ("GET", "/t.json?token=secret") in web.asked


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(b"idx\tlabel")
        handler.wfile.flush()
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()


def busy(handler: BaseHTTPRequestHandler) -> None:
    handler.send_error(503)


def test_a_line_that_breaks_leaves_nothing_and_the_next_try_is_whole(web: Web, cache: Path) -> None:
    web.faults["t.tsv"] = cut_off
    with pytest.raises(OSError, match=r"/t\.tsv cannot be fetched: "):
        read_table(f"{web.url}/t.tsv")
    assert not [path for path in cache.rglob("*") if path.is_file()]
    web.faults.clear()
    assert len(read_table(f"{web.url}/t.tsv")) == 24


def test_a_record_that_the_server_cannot_give_now_is_not_taken_for_none(web: Web) -> None:
    web.faults["t.json"] = busy
    with pytest.raises(OSError, match=r"t\.tsv cannot be read: HTTP 503; the same call again"):
        read_table(f"{web.url}/t.tsv")
    web.faults.clear()
    del web.files["t.json"]
    assert "identity" not in read_table(f"{web.url}/t.tsv").attrs


def test_a_server_that_is_not_there_is_told(web: Web) -> None:
    with pytest.raises(OSError, match=r"http://127.0.0.1:9/t\.tsv cannot be read: "):
        read_table("http://127.0.0.1:9/t.tsv")
    with pytest.raises(FileNotFoundError, match=r"/none\.tsv not found"):
        read_table(f"{web.url}/none.tsv")


def test_a_network_behind_http_is_a_file_by_its_ending_and_else_a_box(web: Web, tmp_path: Path) -> None:
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    save_checkpoint(tmp_path / "net.safetensors", model, data=DIGITS)
    for path in (tmp_path / "net.safetensors", tmp_path / "net.json"):
        web.files[path.name] = path.read_bytes()
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(load_network(f"{web.url}/net.safetensors")(x), model.eval()(x))
    with serving(lambda images: np.zeros(len(images), dtype=int)) as served:
        assert load_network(f"{served.url}/predict", classes=10).info["kind"] == "black box"

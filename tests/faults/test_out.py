"""What is in the way of a file that is to be made stays as it is, to the byte, and one sentence says so."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from dualrs_lab.data import Images, load_images
from dualrs_lab.evidence import keep_table
from dualrs_lab.models import save_checkpoint
from tests.faults.deaths import certificate, make
from tests.faults.trees import tree
from tests.test_store import KEPT, TABLES, network

ROOT = Path(__file__).parent.parent.parent
LOG = ROOT / "data" / "published_logs" / "cohen2019_cifar10_resnet110_sigma_0.25.tsv"


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits", "test").select(range(4))


def of_other_kind(path: Path) -> None:
    """The record in the way is that of a table for a network, and the other way round."""
    if path.suffix == ".tsv":
        save_checkpoint(path.with_suffix(".safetensors"), network())
    else:
        make(path.with_suffix(".tsv"))


def note(path: Path) -> None:
    path.write_text("milk, bread")


def with_json(text: str) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        path.with_suffix(".json").write_text(text)

    return put


def published_log(path: Path) -> None:
    path.write_bytes(LOG.read_bytes()[:-20])  # unfinished, too


def note_with_our_record(path: Path) -> None:
    record = {"identity": {"alpha": 0.01}, "training": {}, "record_of": path.suffix}
    path.with_suffix(".json").write_text(json.dumps(record))
    note(path)


def link(path: Path) -> None:
    target = path.with_name("target")
    target.write_text("kept")
    path.symlink_to(target)


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o666 | 0o020000, os.makedev(1, 3))
    except (PermissionError, OSError):
        pytest.skip("devices are made by root only")


def a_socket(path: Path) -> None:
    os.chdir(path.parent)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)


def at_the_record(put: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda path: put(path.with_suffix(".json"))


IN_THE_WAY: dict[str, Callable[[Path], None]] = {
    "a record of another file": of_other_kind,
    "a json of somebody else": with_json('{"lr": 0.1}'),
    "a json that is a list": with_json("[1, 2]"),
    "a json that is none": with_json("{"),
    "a json that is empty": with_json(""),
    "a note": note,
    "a note with our record": note_with_our_record,
    "a published log": published_log,
    "an empty file": lambda path: path.touch(),
    "a folder": lambda path: path.mkdir(),
    "a link": link,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a pipe": lambda path: os.mkfifo(path),
    "a device": device,
    "a socket": a_socket,
    "a folder as record": at_the_record(lambda path: path.mkdir()),
    "a link as record": at_the_record(link),
    "a pipe as record": at_the_record(lambda path: os.mkfifo(path)),
}


def at_once(images: Images, path: Path, **_: object) -> None:
    del images
    keep_table("keep_table", path, pd.DataFrame([certificate(0).to_row()]), {"identity": {}})


CALLS = KEPT | {"keep_table": at_once}
TABLE_CALLS = {*TABLES, "keep_table"}


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("way", IN_THE_WAY)
def test_what_is_in_the_way_stays_as_it_is(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, replace: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for call, work in CALLS.items():
        folder = tmp_path / call
        folder.mkdir()
        path = folder / ("net.tsv" if call in TABLE_CALLS else "net.safetensors")
        IN_THE_WAY[way](path)
        before = tree(folder)
        with pytest.raises(ValueError, match=rf"^{call}: .*net\.") as error:
            work(images, path, replace=replace, progress=False)
        assert "\n" not in str(error.value), call
        assert tree(folder) == before, call


@pytest.mark.parametrize("name", ["table_0.25", "table_0.5", "table", "t.txt", "t.json", "t.tsv.gz", "T.TSV"])
@pytest.mark.parametrize("call", ["certify_table", "evaluate_table", "label_votes", "train_checkpoint"])
def test_a_name_whose_record_would_be_that_of_others_is_refused(
    images: Images, tmp_path: Path, call: str, name: str
) -> None:
    with pytest.raises(ValueError, match=rf"got .*{name}; wanted a name that ends in \."):
        KEPT[call](images, tmp_path / name, progress=False)
    assert not [*tmp_path.iterdir()]


def test_two_results_never_share_a_record(images: Images, tmp_path: Path) -> None:
    """A table named after a network, and a network named after a table."""
    shutil.copytree(_networks(tmp_path), tmp_path / "as it was")
    for call, path in (("certify_table", "net.tsv"), ("train_checkpoint", "certificates.safetensors")):
        with pytest.raises(
            ValueError, match=r"\.json is the record of .*, and stays as it is; choose another"
        ):
            KEPT[call](images, tmp_path / "networks" / path, replace=True, progress=False)
    assert tree(tmp_path / "networks") == tree(tmp_path / "as it was")


def _networks(folder: Path) -> Path:
    save_checkpoint(folder / "networks" / "net.safetensors", network())
    make(folder / "networks" / "certificates.tsv")
    return folder / "networks"

"""Addresses are told from paths and networks, and told on without a password or a key."""

from pathlib import Path

import pytest

from dualrs_lab.__main__ import main
from dualrs_lab.adapters import names_a_source, source_name
from dualrs_lab.afar import (
    address_text,
    is_afar,
    is_file_afar,
    safe_name,
    size_text,
    want_no_secret,
    without_secrets,
)
from dualrs_lab.tasks import start_task
from tests.cli.test_main import write_notebook

SECRETS = [
    "https://user:secret@host/t.tsv",
    "https://secret@host/t.tsv",
    "sftp://user:secret@host/t.tsv",
    "https://host/t.tsv?token=secret",
    "https://host/t.tsv?v=1&X-Amz-Signature=secret",
    "https://host/t.tsv?sv=2024&sig=secret",
    "simplecache::https://host/t.tsv?api_key=secret",
]


@pytest.mark.parametrize("address", SECRETS)
def test_an_address_is_told_without_its_secret_and_not_kept_with_it(address: str) -> None:
    assert is_afar(address)
    assert "secret" not in address_text(address)
    assert "secret" not in without_secrets(f"cannot connect to {address}: refused")
    assert "secret" not in source_name(address)
    assert address_text(address).endswith("host/t.tsv")
    with pytest.raises(ValueError, match=r"host/t\.tsv holds a password or a key, which") as error:
        want_no_secret("test", ["--model", address], "it")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/a@b/t.tsv", "https://host/predict?model=3", "sftp://user@host/t.tsv", "hf://org/name@v/x"],
)
def test_an_address_without_one_is_kept_as_it_is(address: str) -> None:
    want_no_secret("test", [address, 3, "n=4", "user:secret@host"], "it")


def test_what_is_kept_of_a_command_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_notebook(tmp_path / "notebooks" / "10_a.ipynb", "compared: list[str] = []", "1")
    words = ["summary", SECRETS[0]]
    with pytest.raises(ValueError, match="kept in the record of the task"):
        start_task(words)
    assert main(["run", "10_a", "-p", f"compared={SECRETS[3]}"]) == 2
    job = ["manifest", "--image", "i", "--claim", "c", "certify", "--model", SECRETS[0].replace("tsv", "pt2")]
    assert main([*job, "--data", "digits", "--sigma", "1", "--out", "t.tsv"]) == 2
    assert (
        main(
            ["certify", "--model", "x", "--data", "digits", "--sigma", "1", "--out", SECRETS[3][:-1] + ".csv"]
        )
        == 2
    )
    assert main(["summary", "s3://user:secret@bucket/none.tsv", "--what", "https://user:secret@host"]) == 2
    told = capsys.readouterr()
    assert "kept in the pages and records of the run" in told.err
    assert "kept in the manifest" in told.err
    assert "secret" not in told.err + told.out
    assert not [*tmp_path.rglob("*.json")]


def test_behind_http_a_file_is_what_ends_as_one_and_all_else_answers() -> None:
    for address in (
        "https://h/net.pt2",
        "https://h/net.safetensors?v=1",
        "s3://b/predict",
        "simplecache::https://h/x",
    ):
        assert is_file_afar(address), address
    for address in (
        "https://h/predict",
        "http://h:8000/v1/model",
        "http://h/net.pt2/predict",
        "timm:x",
        "net.pt2",
    ):
        assert not is_file_afar(address), address
    assert names_a_source("https://h/predict")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\nb", "a\0b", "x" * 300])
def test_a_name_that_leads_elsewhere_or_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name for a file"):
        safe_name("test", name)
    assert safe_name("test", "..a b@n=1.tsv") == "..a b@n=1.tsv"


def test_sizes_are_told_for_people() -> None:
    assert [size_text(size) for size in (0, 999, 1200, 44_700_000, 2e9)] == [
        "0 bytes", "999 bytes", "1.2 kB", "44.7 MB", "2 GB",
    ]  # fmt: skip

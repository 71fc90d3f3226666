"""Every test has a cache of its own, and empty file systems."""

from pathlib import Path

import pytest

from dualrs_lab.afar import address, fetching

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from tests.afar.disks import register

    register()
    monkeypatch.setenv("DUALRS_AFAR", str(tmp_path / "cache"))
    monkeypatch.setattr(address, "_COPIES", {})
    monkeypatch.setattr(fetching, "_SAID", set())
    return tmp_path / "cache"

"""Lab and app are opened on the front page, with what they need and without what they do not."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from dualrs_lab.home import launch

FOLDER = Path("bench", "notebooks")


def test_lab_opens_on_the_front_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "mine")
    command, environment = launch(FOLDER, ["--port", "1"], app=False)
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert command[-2:] == ["--port", "1"]
    assert {"--ServerApp.root_dir=bench", "--LabApp.default_url=/dualrs"} <= {*command}
    assert "--ServerApp.jpserver_extensions={'dualrs_lab.home.server': True}" in command
    first, second = environment["JUPYTER_CONFIG_PATH"].split(os.pathsep)
    assert second == "mine"
    shipped = json.loads(Path(first, "labconfig", "default_setting_overrides.json").read_text())
    assert shipped["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"
    commands = [item["command"] for item in shipped["@jupyterlab/notebook-extension:panel"]["toolbar"]]
    assert commands == ["notebook:hide-all-cell-code", "notebook:show-all-cell-code"]


def test_an_app_is_a_server_with_voila_and_without_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    command, _ = launch(FOLDER, [], app=True)
    assert command[1:3] == ["-m", "jupyter_server"]
    assert "--ServerApp.default_url=/dualrs" in command
    (extensions,) = [word for word in command if "jpserver_extensions" in word]
    assert "'voila.server_extension': True" in extensions
    assert "'jupyterlab': False" in extensions


def test_an_app_without_voila_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^lab --app: Voilà is missing: pip install 'dualrs-lab\[app\]'$"):
        launch(FOLDER, [], app=True)

"""How the workbench is opened: JupyterLab, or a server with Voilà, both on the front page."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["launch"]


OURS = "dualrs_lab.home.server"


CONTENTS = "dualrs_lab.home.contents.NotebookContents"


VOILA = "voila.server_extension"


UNWANTED = (
    "jupyterlab",
    "jupyter_lsp",
    "jupyter_server_terminals",
    "notebook_shim",
)  # in an app without code


def launch(folder: Path, rest: Sequence[str], *, app: bool) -> tuple[list[str], dict[str, str]]:
    """The command and the environment that open a folder of notebooks; `rest` goes to Jupyter.

    ValueError for an `app` without Voilà.
    """
    if app and importlib.util.find_spec("voila") is None:
        raise ValueError("lab --app: Voilà is missing: pip install 'dualrs-lab[app]'")
    extensions: dict[str, bool] = {OURS: True}
    if app:
        extensions |= {VOILA: True, **dict.fromkeys(UNWANTED, False)}
    command = [sys.executable, "-m", "jupyter_server" if app else "jupyterlab"]
    command += [f"--ServerApp.root_dir={folder.parent}", f"--ServerApp.jpserver_extensions={extensions}"]
    command += [f"--ServerApp.contents_manager_class={CONTENTS}"]
    command += [f"--{'ServerApp' if app else 'LabApp'}.default_url=/dualrs", *rest]
    # The package holds labconfig/: widget callbacks on the main thread, no news over the pictures, see there.
    settings = str(Path(__file__).resolve().parent.parent)
    paths = [settings, *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    return command, {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(paths)}

"""The front page and the explorer as pages of a Jupyter server; Jupyter calls what begins with an underscore.

In JupyterLab the ways of the page lead to notebooks there, in a server without it to the same through Voilà.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.serverapp import ServerApp
from jupyter_server.utils import url_path_join
from tornado.web import HTTPError, authenticated

from dualrs_lab.gallery import Way, front_html, wait_html
from dualrs_lab.home.doors import BOARD, find_doors

__all__ = ["Board", "FrontPage"]


FRONT = "dualrs"


class FrontPage(JupyterHandler):
    """The doors, with the notebooks as they are now."""

    @authenticated
    async def get(self) -> None:
        """The page."""
        server = _server(self)
        found = server.extension_manager.extensions.get("jupyterlab")
        lab = found is not None and found.enabled
        opens = url_path_join(self.base_url, "lab/tree" if lab else "voila/render")
        doors = await asyncio.to_thread(
            find_doors,
            Path(server.root_dir),
            address=lambda path: f"{opens}/{quote(path)}",
            base=self.base_url,
            waits=not lab,
        )
        others = [Way(address=f"{self.base_url}lab", name="JupyterLab")] if lab else []
        self.finish(front_html(doors, others=others))


class Board(JupyterHandler):
    """The explorer of all tables below the root, made by `dualrs-lab board` when it is first asked for."""

    making: "asyncio.Task[str] | None" = None

    @authenticated
    async def get(self) -> None:
        """The page, or one that asks again while this is made."""
        if Board.making is None:
            Board.making = asyncio.create_task(_make_board(Path(_server(self).root_dir)))
        if not Board.making.done():
            self.finish(wait_html("Reading all tables"))
            return
        made, Board.making = Board.making, None
        self.finish(made.result())


def _server(handler: JupyterHandler) -> ServerApp:
    assert handler.serverapp is not None
    return handler.serverapp


async def _make_board(root: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "board.html")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dualrs_lab", "board", "--out", str(page)),
            cwd=root,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise HTTPError(500, reason=said.decode(errors="replace").strip().splitlines()[-1])
        return page.read_text("utf-8")


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: ServerApp) -> None:
    base = server.web_app.settings["base_url"]
    pages = {FRONT: FrontPage, BOARD: Board}
    handlers = [(url_path_join(base, address), page) for address, page in pages.items()]
    server.web_app.add_handlers(".*$", handlers)  # type: ignore[no-untyped-call]

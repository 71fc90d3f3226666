"""Notebooks as Jupyter serves them: opened, they are as they were saved, not changed by being looked at."""

import sys
from typing import Any

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from nbformat import from_dict

__all__ = ["NotebookContents"]


KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


LANGUAGE = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
    "version": sys.version.split()[0],
}


class NotebookContents(AsyncLargeFileManager):
    """Files from a folder; notebooks get what JupyterLab would write into them as soon as a kernel starts.

    Committed notebooks leave it out, since it differs between machines, and JupyterLab took each for edited
    when it was opened.
    """

    async def get(self, path: str, *args: Any, **options: Any) -> dict[str, Any]:
        """The model of a file or folder, as Jupyter's contents API has it."""
        model: dict[str, Any] = await super().get(path, *args, **options)  # type: ignore[no-untyped-call]
        if model["type"] == "notebook" and model["content"] is not None:
            metadata = model["content"]["metadata"]
            if metadata.get("kernelspec", {}).get("name") == KERNEL["name"]:
                metadata.update(from_dict({"kernelspec": KERNEL, "language_info": LANGUAGE}))
        return model

"""What people see of an executed notebook: its page, and beside it its card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualrs_lab.charts import export_page
from dualrs_lab.files import replace_json
from dualrs_lab.gallery.cards import CARD, make_card

__all__ = ["show_run"]


HOME = "../index.html"  # the page of all runs lies one folder up


def show_run(notebook: Path, nb: Mapping[str, Any], page: Path) -> None:
    """Write card and page of an executed notebook, which holds the JSON `nb`."""
    replace_json(page.with_name(CARD), make_card(nb).plain())
    export_page(notebook, page, home=HOME)

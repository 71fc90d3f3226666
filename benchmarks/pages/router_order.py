"""What docs/results.md says of which noise level a router asks about first."""

from functools import cache

import pandas as pd
from scipy.special import ndtri

from benchmarks.pages.certificates import SHOWN, SYSTEMS, apart_cells, curve_table, reached_at
from benchmarks.pages.text import Facts, along, markdown, percent, radius, read_info
from benchmarks.quality import ALPHA, BOTH, SHIPPED_SYSTEMS, SIGMAS
from benchmarks.router_order import ORDERS, table_name
from dualrs_lab.dual import Cuts
from dualrs_lab.evidence import lower_bound, read_table, reclaimed

__all__ = ["ahead", "board", "facts", "reach", "sent"]

RULES = {"dual, published": "published certificate", "dual, routed": "routed certificate"}


@cache
def board() -> pd.DataFrame:
    """Certified accuracy by order and rule."""
    return pd.read_csv(SYSTEMS / "router_order.csv").set_index(["order", "rule"])


def ahead() -> pd.DataFrame:
    """By image and radius, what the routed certificate of the largest first gives more, by two bounds."""
    smallest, largest = (reached_at(reclaimed(_table(order), "two-bounds"), SHOWN) for order in ORDERS)
    return largest - smallest


def sent(order: str) -> "pd.Series[float]":
    """The share of test images that go to each expert."""
    return _table(order)["sigma"].value_counts(normalize=True).reindex([*SIGMAS], fill_value=0.0)


def reach(sigma: float, draws: int) -> float:
    """How far a cut under this noise can rule an expert out at most, with so many draws."""
    level = Cuts(SIGMAS[1:]).split(len(SIGMAS), ALPHA, "two-bounds").lower[0]
    return float(sigma * ndtri(lower_bound(draws, draws, level)))


def _table(order: str) -> pd.DataFrame:
    return read_table(SHIPPED_SYSTEMS.answers(table_name(order)))


def facts() -> Facts:
    """Placeholders of the page."""
    found, record = board(), read_info(SYSTEMS / "router_order.csv")
    shown = {
        (order, f"{rule}{end}"): f"{order}, {label}{end}"
        for end in ("", BOTH)
        for rule, label in RULES.items()
        for order in ORDERS
    }
    at = [f"{r:g}" for r in SHOWN]
    return {
        "router_order": curve_table(found, shown),  # type: ignore[arg-type]
        "router_order_ahead": markdown(
            ["", *along(at), "ACR"],
            [["largest first, less smallest first", *apart_cells(ahead())]],
        ),
        "router_order_acr": {
            order: {rule: radius(found.loc[(order, f"{rule}{BOTH}"), "acr"]) for rule in RULES}
            for order in ORDERS
        },
        "router_order_sent": {
            order: ", ".join(f"{percent(share, 0)} % to σ = {s:g}" for s, share in sent(order).items())
            for order in ORDERS
        },
        "router_order_cost": percent(-float(ahead()[at].mean().min())),
        "router_order_reach": {
            f"{sigma:g}" if sigma < 1 else f"{sigma:.1f}": f"{reach(sigma, record['draws']):.2f}"
            for sigma in SIGMAS[1:]
        },
        "router_order_images": f"{record['images']:,}",
        "router_order_draws": f"{record['draws']:,}",
        "router_order_epochs": f"{record['epochs']}",
    }

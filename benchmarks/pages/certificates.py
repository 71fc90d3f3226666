"""What docs/results.md says of certificates: single noise levels, two bounds, dual systems and cascades."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from benchmarks.pages.text import DATA, Facts, along, markdown, millions, percent, radius, read_info, signed
from benchmarks.quality import BOTH, RADII, SHIPPED, SIGMAS
from dualrs_lab.evidence import (
    average_radius,
    certified_accuracy,
    radius_ceiling,
    read_table,
    reclaimed,
)

__all__ = ["SYSTEMS", "apart_cells", "curve_table", "facts", "published_log", "reached_at", "shipped"]

SYSTEMS = DATA / "cifar10_systems"
TUNED = replace(SHIPPED, folder=SYSTEMS)  # the experts trained for their cascade
SHOWN = RADII[:9]  # in the long tables


def facts() -> Facts:
    """Placeholders of the page."""
    return {**_networks(), **_systems(), **_tuned(), **_tried()}


def shipped(sigma: float, *, tuned: bool = False) -> pd.DataFrame:
    """The certificates of the network for this noise level, or of the one trained for the cascade."""
    return read_table(TUNED.tuned_certificates(sigma) if tuned else SHIPPED.certificates(sigma))


def published_log(sigma: float) -> pd.DataFrame:
    """The certification log of Cohen et al. (2019) for this noise level."""
    return read_table(DATA / "published_logs" / f"cohen2019_cifar10_resnet110_sigma_{sigma:.2f}.tsv")


def _curve(table: pd.DataFrame) -> dict[str, float]:
    shares = certified_accuracy(table, RADII).tolist()
    return dict(zip([f"{r:g}" for r in RADII], shares, strict=True)) | {"acr": average_radius(table)}


def curve_table(found: pd.DataFrame, labels: Mapping[str, str], radii: Sequence[float] = SHOWN) -> str:
    """A row for each key of `labels`, from columns "0", "0.25", …, acr."""
    at = [f"{r:g}" for r in radii]
    rows = [
        [label, *(percent(found.loc[rule, r]) for r in at), radius(found.loc[rule, "acr"])]
        for rule, label in labels.items()
    ]
    return markdown(["", *along(at), "ACR"], rows)


def reached_at(claims: pd.DataFrame, radii: Sequence[float]) -> pd.DataFrame:
    """By image, whether each radius is certified (0 or 1), and the radius as "acr"; a wrong answer has 0."""
    length = np.where(claims["correct"] == 1, claims["radius"], -1.0)
    rows = {f"{r:g}": (length >= r).astype(float) for r in radii}
    return pd.DataFrame(rows | {"acr": np.maximum(length, 0.0)}, index=claims["idx"])


def apart_cells(apart: pd.DataFrame, digits: int = 3) -> list[str]:
    """Mean differences of such frames ± one standard error: points, and the radius to so many digits."""
    cells = []
    for name in apart:
        mean, error = float(apart[name].mean()), float(apart[name].sem())
        told = f"{mean:+.{digits}f} ± {error:.{digits}f}".replace("-", "−") if name == "acr" else None
        cells.append(told or (f"{signed(mean)} ± {percent(error)}" if apart[name].any() else "–"))
    return cells


def _networks() -> Facts:
    ours = {s: shipped(s) for s in SIGMAS}
    rows = {f"here, σ = {s:g}": _curve(table) for s, table in ours.items()}
    rows |= {f"Cohen et al., σ = {s:g}": _curve(published_log(s)) for s in SIGMAS}
    both = {f"here, σ = {s:g}{BOTH}": _curve(reclaimed(table, "two-bounds")) for s, table in ours.items()}
    trained = [read_info(SHIPPED.expert(s).with_suffix(".json")) for s in SIGMAS]
    spec = read_info(SHIPPED.certificates(0.5).with_suffix(".json"))["identity"]
    ceiling = {
        f"{s:g}, {a:g}": f"{radius_ceiling(100_000, a, s, rule='cohen'):.3f}"
        for s in (0.25, 0.5)
        for a in (0.001, 0.01)
    }
    return {
        "networks": curve_table(pd.DataFrame(rows | both).T, {rule: rule for rule in rows | both}, RADII[:7]),
        "parameters": millions(SHIPPED.expert(0.5)),
        "epochs": str(trained[0]["training"]["config"]["epochs"]),
        "training_minutes": f"{np.mean([info['seconds'] for info in trained]) / 60:.0f}",
        "images": str(len(shipped(0.5))),
        "n": f"{spec['n']:,}",
        "alpha": f"{spec['alpha']:g}",
        "error": f"{50 / np.sqrt(len(shipped(0.5))):.1f}",  # at most, at a share of one half
        "tuned_error": f"{50 / np.sqrt(len(shipped(0.5, tuned=True))):.1f}",
        "log_largest": {f"{s:g}": f"{published_log(s)['radius'].max():g}" for s in (0.25, 0.5)},
        "log_ceiling": ceiling,
    }


def _systems() -> Facts:
    found = pd.read_csv(SYSTEMS / "comparison.csv", index_col="rule")
    ruled = {
        "σ = 0.25": "one noise level, σ = 0.25",
        "σ = 0.5": "σ = 0.5",
        "σ = 1": "σ = 1",
        "envelope": "their envelope (no classifier)",
        "dual, published": "dual system, published certificate",
        "dual, routed": "dual system, routed certificate",
    }
    cascades = {
        "cascade": "cascade, Jeong and Shin’s radius",
        "cascade, routed": "cascade, routed certificate",
        "cascade, routed, t = 0.3": "the same, t = 0.3 at σ = 1",
    }
    others = {"whoever is surest": "whoever is surest", "combiner": "learnt combiner"}
    oracle = {"oracle": "oracle (no classifier)"}
    acr = found["acr"]
    return {
        "systems": curve_table(found, ruled | cascades | oracle),
        "systems_by_two_bounds": curve_table(
            found, _ending(ruled, BOTH) | cascades | others | _ending(oracle, BOTH)
        ),
        "acr": {rule: radius(value) for rule, value in acr.items()},
        "at_0": {rule: percent(value) for rule, value in found["0"].items()},
        "of_oracle": percent(acr["cascade, routed"] / acr["oracle"], 0),
        "gained": {s: f"{acr[s + BOTH] - acr[s]:.3f}" for s in ("σ = 0.25", "σ = 1", "dual, routed")},
        "router_minutes": f"{read_info(SYSTEMS / 'router_cut1.json')['seconds'] / 60:.0f}",
    }


def _ending(labels: Mapping[str, str], end: str) -> dict[str, str]:
    return {f"{rule}{end}": label for rule, label in labels.items()}


def _tuned() -> Facts:
    found = pd.read_csv(SYSTEMS / "comparison_tuned.csv", index_col="rule")
    labels = {
        "σ = 1": "σ = 1, as above, Cohen’s rule",
        f"σ = 1{BOTH}": "σ = 1, as above, two bounds",
        "cascade, routed": "cascade, as above",
        "tuned, σ = 1": "trained together: σ = 1 alone, Cohen’s rule",
        f"tuned, σ = 1{BOTH}": "trained together: σ = 1 alone, two bounds",
        "tuned cascade, routed": "trained together: cascade",
        "tuned cascade, routed, t = 0.3": "the same, t = 0.3 at σ = 1",
        "oracle": "oracle of the networks above",
        "tuned, oracle": "oracle of those trained together",
    }
    acr, made = found["acr"], read_info(TUNED.tuned(0.5).with_suffix(".json"))
    return {
        "tuned": curve_table(found, labels),
        "tuned_of_own_oracle": percent(acr["tuned cascade, routed"] / acr["tuned, oracle"], 0),
        "tuned_of_oracle": percent(acr["tuned cascade, routed"] / acr["oracle"], 0),
        "tuned_minutes": f"{made['seconds'] / 60:.0f}",
    }


def _tried() -> Facts:
    found = pd.read_csv(SYSTEMS / "tried.csv").set_index("lever")
    routers, others = (found[found["table"] == kind] for kind in ("router", "no router"))
    published, routed = (routers[routers["rule"] == rule]["acr"] for rule in ("published", "routed"))
    pairs = [[lever, f"{published[lever]:.3f}", f"{routed[lever]:.3f}"] for lever in routed.index]
    alone = [[lever, f"{acr:.3f}"] for lever, acr in others["acr"].items()]
    cascade, single = others["at_0"].dropna()
    return {
        "tried_routers": markdown(["with a router", "published", "routed"], pairs),
        "tried_others": markdown(["without a router", "ACR"], alone),
        "tried_at_0": {"cascade": percent(cascade), "single": percent(single)},
    }

"""What docs/results.md says of cascades that held-out images chose, and of how the level is shared."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.dial import CAT_RS, Setting, certified, chosen_for, of_row, table_of
from benchmarks.gpu.certifying import ALPHA, RADII
from benchmarks.pages.certificates import apart_cells, reached_at
from benchmarks.pages.larger import points, published
from benchmarks.pages.taught import TAUGHT
from benchmarks.pages.text import DATA, Facts, along, markdown, percent, radius, read_info, signed
from dualrs_lab.cascade import from_tables
from dualrs_lab.evidence import average_radius, certified_accuracy, read_table, reclaimed

__all__ = ["dial", "facts", "falling_back", "gained_over", "handed"]

AT = [f"{r:g}" for r in RADII]
ALONE = f"alike, {CAT_RS} alone"


def dial() -> pd.DataFrame:
    """A row a cascade, as the benchmark kept it."""
    return pd.read_csv(TAUGHT / "dial.csv")


def falling_back() -> Setting:
    """The best cascade of the networks by CAT-RS, where all radii weigh alike."""
    return of_row(chosen_for(dial(), ALONE))


def gained_over(rule: str, other: float = 0.5) -> pd.DataFrame:
    """By image and radius, what that cascade certifies less what one expert does; "acr" is the radius."""
    mine = reached_at(certified(falling_back()), RADII)
    return mine - reached_at(reclaimed(read_table(table_of(other, CAT_RS)), rule), RADII)


def facts() -> Facts:
    """Placeholders of the page."""
    setting, row = falling_back(), chosen_for(dial(), ALONE)
    curve = row[AT].astype(float)
    dual = pd.read_csv(DATA / "published_dual.csv").pivot_table("certified_accuracy", "system", "radius")
    dual.columns = pd.Index([f"{r:g}" for r in dual.columns])
    theirs = dual.loc["Dual RS, fine-tuned"]
    beyond = points(curve, theirs)
    return {
        "dial": _settings(),
        "dial_count": str(len(dial())),
        "dial_order": " and then ".join(f"σ = {s:g}" for s in setting.cascade.sigmas),
        "dial_share": percent(setting.cascade.shares[0], 0),
        "dial_threshold": f"{setting.cascade.limits[-1]:g}".replace("-", "−"),
        "dial_gained": _gained(),
        "dial_published": _beside(curve, dual),
        "dial_beyond_dual": {f"r = {r}": signed(value / 100) for r, value in beyond.items()},
        "dial_beyond_from_half": f"{beyond[AT[2:7]].min():.1f} to {beyond[AT[2:7]].max():.1f}",
        "dial_fine": _fine(setting),
        "dial_acr": radius(float(row["acr"])),
        **_handed(),
    }


def handed() -> pd.DataFrame:
    """What `benchmarks.handed` kept: two rows an arm, alone and in front of a smaller level."""
    return pd.read_csv(TAUGHT / "handed.csv")


def _handed() -> Facts:
    record, rows = read_info(TAUGHT / "handed.csv"), handed()
    shown = [
        [f"{row['arm']}, {row['asked']}", f"{row['epochs']:.1f}", *(percent(float(row[r])) for r in AT[:-1])]
        for row in rows.to_dict("records")
    ]
    by = rows.set_index(["arm", "asked"])[AT]
    change = {
        asked: by.loc["easy images", asked] - by.loc["all images", asked] for asked in ("alone", "first")
    }
    behind = {arm: by.loc[arm, "first"]["0"] - by.loc[arm, "alone"]["0"] for arm in rows["arm"].unique()}
    return {
        "handed_lost": {asked: percent(-apart["0"]) for asked, apart in change.items()},
        "handed_won": f"{percent(change['first']['1'])} and {percent(change['first']['1.25'])}",
        "handed_behind": {arm: percent(gain) for arm, gain in behind.items()},
        "handed": markdown(["", "epochs", *along(AT[:-1])], shown),
        "handed_seconds": f"{record['seconds']:g}",
        "handed_images": f"{record['images']:,}",
        "handed_error": f"{50 / np.sqrt(record['images']):.1f}",
    }


def _settings() -> str:
    rows = []
    for row in dial().to_dict("records"):
        setting = of_row(row)
        parts = zip(setting.cascade.sigmas, setting.cascade.limits, setting.kinds, strict=True)
        asked = ", ".join(
            f"{s:g}{'*' if kind == CAT_RS else ''} from {limit:g}".replace("-", "−")
            for s, limit, kind in parts
        )
        shares = setting.cascade.shares
        most = f"{setting.cascade.sigmas[int(np.argmax(shares))]:g}" if shares else "alike"
        rows.append([asked, most, *(percent(float(row[r])) for r in AT), radius(float(row["acr"]))])
    return markdown(["asked", "most of α", *along(AT), "ACR"], rows)


def _gained() -> str:
    rules = (("two-bounds", "two bounds"), ("cohen", "Cohen’s radius"))
    rows = [[f"σ = 0.5 by {name}", *apart_cells(gained_over(rule), digits=4)] for rule, name in rules]
    return markdown(["", *along(AT), "ACR"], rows)


def _beside(curve: "pd.Series[float]", dual: pd.DataFrame) -> str:
    rows = {
        "this cascade, n = 10,000": curve,
        **{f"published: {name}": dual.loc[name] for name in dual.index},
        "published: CAT-RS, σ = 0.5, n = 100,000": published("CAT-RS", 0.5),
        "published: Cohen et al., best σ, n = 100,000": published("Cohen 2019"),
    }
    shown = [[name, *(percent(float(values[r])) for r in AT)] for name, values in rows.items()]
    return markdown(["", *along(AT)], shown)


def _fine(setting: Setting) -> str:
    # the same from ten times the votes, on the images that have them
    paths = {s: table_of(s, CAT_RS) for s in setting.cascade.sigmas}
    many = {
        s: read_table(path.with_name(path.name.replace("n10000", "n100000"))) for s, path in paths.items()
    }
    of = next(iter(many.values()))["idx"]
    few = {s: table[table["idx"].isin(of)] for s, table in ((s, read_table(p)) for s, p in paths.items())}
    rows = []
    for n, tables in (("100,000", many), ("10,000", few)):
        alone = reclaimed(tables[0.5], "two-bounds")
        both = from_tables(tables, cascade=setting.cascade, alpha=ALPHA)
        rows += [(f"cascade, n = {n}", both), (f"σ = 0.5 by two bounds, n = {n}", alone)]
    shown = [[name, *_curve(table), radius(average_radius(table))] for name, table in rows]
    return markdown(["", *along(AT), "ACR"], shown)


def _curve(table: pd.DataFrame) -> list[str]:
    reached: NDArray[np.float64] = certified_accuracy(table, RADII)
    return [percent(float(value)) for value in reached]

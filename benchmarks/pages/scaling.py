"""What docs/scaling.md says: the model, the simulation, and what the shared disk bears."""

import pandas as pd

from benchmarks.pages.text import DATA, Facts, markdown, read_info, significant

__all__ = ["facts"]

TABLE = DATA / "benchmarks" / "scaling.csv"


def facts() -> Facts:
    """Placeholders of the page."""
    found, told = pd.read_csv(TABLE), read_info(TABLE)
    cost = found[found["part"] == "cost"].set_index("quantity")["median"]
    strided, blocks = (_by_arm(found, kind) for kind in ("strided", "blocks"))
    disk = found[found["part"] == "disk"].pivot(index="arm", columns="quantity", values="median")
    most, each = [*strided.index][-1], [*strided.columns.levels[1]]
    worst = strided["more than the model"].to_numpy().max()
    return {
        "scaled": markdown(
            ["GPUs", "model", *(f"{k:.0f} a GPU" for k in each), "blocks, 1 a GPU"],
            [
                [
                    arm.split()[0],
                    _time(strided["time"][1.0][arm] / (1 + strided["more than the model"][1.0][arm] / 100)),
                    *(_cell(strided, arm, k) for k in each),
                    _cell(blocks, arm, 1.0),
                ]
                for arm in strided.index
            ],
        ),
        "scaling": {
            "draw": significant(cost["time per draw"]),
            "start": significant(cost["start of a part"]),
            "images": f"{told['images']:,}",
            "n": f"{told['n']:,}",
            "mean": f"{cost['mean draws per image']:,.0f}",
            "most": significant(cost["most draws of an image / mean"]),
            "alone": significant(cost["on one GPU"]),
            "worst": significant(worst),
            "gpus": most.split()[0],
            "idle": significant(strided["idle"][1.0][most]),
            "blocks_idle": significant(blocks["idle"][1.0][most]),
            "waves": significant(disk.loc[most, "waves appended"]),
            "beats": significant(disk.loc[most, "beats"]),
            "files": f"{disk.loc[most, 'files of parts, four a GPU']:,.0f}",
            "append": significant(disk.loc["measured", "append of a wave of rows"]),
        },
    }  # fmt: skip


def _by_arm(found: pd.DataFrame, part: str) -> pd.DataFrame:
    rows = found[found["part"] == part]
    wide = rows.pivot(index="arm", columns=["quantity", "at"], values="median")
    return wide.loc[rows["arm"].drop_duplicates()]


def _cell(wide: pd.DataFrame, arm: str, each: float) -> str:
    return f"{_time(wide['time'][each][arm])} ({significant(wide['idle'][each][arm], 2)} %)"


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"

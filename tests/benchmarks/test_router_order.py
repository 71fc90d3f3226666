"""Which noise level a router asks about first: both orders in a dry run, and what the shipped tables say."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import router_order as bench
from benchmarks.pages import router_order as page
from benchmarks.quality import ALPHA, SHIPPED_SYSTEMS, quick
from dualrs_lab.data import load_images
from dualrs_lab.evidence import read_table
from dualrs_lab.experiment import Experiment
from dualrs_lab.models import make_model, save_checkpoint
from dualrs_lab.smoothing import GridNoise, Spec, certify_table, image_votes

N = 40


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Experts for digits with their tables, and votes about training images, in the place of the shipped."""
    train, test = (load_images("digits", split) for split in ("train", "test"))
    made = Experiment(folder=tmp_path / "experts", data=test.title, model="digits_narrow", seed=0, n=N)
    networks = []
    for seed, sigma in enumerate(bench.SIGMAS):
        model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=seed)
        made.expert(sigma).parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(made.expert(sigma), model, data={"classes": list(test.classes)})
        networks.append(model.eval())
        spec = Spec(noise=GridNoise(sigma), seed=0, n=N, alpha=ALPHA, **quick(torch.device("cpu")))
        certify_table(model, test, made.certificates(sigma), spec=spec, max_images=6, progress=False)
    votes, some = tmp_path / "votes.safetensors", train.select(range(0, len(train), bench.STEP))
    image_votes(networks, some, votes, sigmas=bench.SIGMAS, n=20, seed=1, progress=False)
    monkeypatch.setattr(bench, "SHIPPED", made)
    monkeypatch.setattr(bench, "VOTES", votes)
    monkeypatch.setattr(bench, "SIZE", bench.Size(epochs=1, n_estimator=30, skip=1, images=6))
    return made


def test_both_orders_are_trained_certified_and_resumed(digits: Experiment, tmp_path: Path) -> None:
    call = ["--data", "digits", "--device", "cpu", "--out", str(tmp_path / "made")]
    found = bench.main(call)
    assert found.index.get_level_values("order").unique().tolist() == [*bench.ORDERS]
    routed, published = (found.xs(f"dual, {rule}", level="rule")["acr"] for rule in ("routed", "published"))
    assert (routed >= published).all()
    for name, order in bench.ORDERS.items():
        table = read_table(tmp_path / "made" / f"{bench.table_name(name)}.tsv")
        assert [column for column in table if column.startswith("votes_")] == [f"votes_{s:g}" for s in order]
        assert len(table) == 6
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "made").glob("*.safetensors")}
    assert len(made) == 4
    pd.testing.assert_frame_equal(bench.main(call), found)
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "made").glob("*.safetensors")}


def test_votes_about_other_images_are_refused(digits: Experiment, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "STEP", bench.STEP + 1)
    with pytest.raises(ValueError, match="holds votes about other images; wanted --data to be those of"):
        bench.main(["--data", "digits", "--device", "cpu", "--out", str(tmp_path / "made")])


def test_the_shipped_rows_follow_from_their_tables() -> None:
    written = pd.read_csv(SHIPPED_SYSTEMS.table("router_order")).set_index(["order", "rule"])
    tables = {name: read_table(SHIPPED_SYSTEMS.answers(bench.table_name(name))) for name in bench.ORDERS}
    assert {len(table) for table in tables.values()} == {500}
    pd.testing.assert_frame_equal(bench.board(tables), written, atol=1e-6)


def test_the_words_on_the_order_hold() -> None:
    ahead, alone = page.ahead(), pd.read_csv(SHIPPED_SYSTEMS.table("comparison"), index_col="rule")
    gained, error = ahead.mean(), ahead.sem()
    far = ["1.25", "1.5", "1.75", "2", "acr"]
    assert (gained[far] >= 2 * error[far]).all()
    assert (gained.drop(far) < 0).all()
    assert (page.sent("smallest first") - page.sent("largest first")).abs().max() < 0.02
    first, last = (read_table(SHIPPED_SYSTEMS.answers(bench.table_name(name))) for name in bench.ORDERS)
    limit = page.reach(0.5, bench.SIZE.n_estimator)
    to_one = first["sigma"] == 1
    assert first.loc[to_one, "radius"].max() == pytest.approx(limit)
    assert last["radius"].max() > limit + 1
    assert first.loc[to_one, "entry_0.25"].max() == pytest.approx(limit)
    assert last["entry_0.25"].max() == pytest.approx(page.reach(1, bench.SIZE.n_estimator))
    best = page.board().loc[("largest first", f"dual, routed{bench.BOTH}"), "acr"]
    assert best < alone.loc[f"σ = 0.5{bench.BOTH}", "acr"]

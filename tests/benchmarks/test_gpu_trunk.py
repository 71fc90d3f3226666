"""Stage 8 on the CPU: what one trunk loses, and the whole stage at toy size."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.from_start import Experts
from benchmarks.gpu import trunk as stage8
from benchmarks.gpu.certifying import STRENGTH, fresh
from benchmarks.gpu.trainer import Recipe
from dualrs_lab.data import load_images
from dualrs_lab.evidence import Certificate, read_table
from dualrs_lab.models import load_checkpoint
from dualrs_lab.training import Consistency

CALL = ["--toy", "--device", "cpu", "--minutes", "60", "--out"]
STEM = "digits_digits_narrow_one_trunk_sigma{0:g}_seed0"


def test_it_loses_what_its_experts_lose_at_the_present_strength() -> None:
    images = load_images("digits", "train").select(range(64))
    start = Experts(partial(fresh, images, "digits_narrow"), len(STRENGTH), trunk=True)
    made = stage8.Trunk(start, images, Recipe(batch=16, crop=0, flip=False), lambda text: None)
    made.start(start, seed=3)  # type: ignore[arg-type]
    made.ramp.fill_(0.5)
    made.model.eval()
    x, y = images.pixels[:16] / 255, images.labels[:16]
    found = made.loss(x, y).item()
    generator = torch.Generator().manual_seed(3)
    wanted = 0.0
    for sigma, member in zip(stage8.SIGMAS, made.model.members, strict=True):
        objective = Consistency(sigma=sigma, strength=0.5 * STRENGTH[sigma])
        wanted += objective(member, x, y, generator).item()
    assert found == pytest.approx(wanted, rel=1e-5)
    assert made.seen(x, y).shape == (len(STRENGTH), *x.shape)
    assert made.model(made.seen(x, y)).shape == (len(STRENGTH), 16, 10)


def test_without_time_nothing_is_trained_and_the_stage_says_so(tmp_path: Path) -> None:
    words = ["--toy", "--device", "cpu", "--minutes", "1e-4", "--out", str(tmp_path)]
    assert stage8.main(words) == 1
    told = json.loads((tmp_path / "record.json").read_text())
    assert "no expert for σ = [0.12, 0.25, 0.5, 1.0]" in told["error"]
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.slow
def test_experts_are_networks_of_their_own_with_kernels_in_common(tmp_path: Path) -> None:
    assert stage8.main([*CALL, str(tmp_path)]) == 0
    networks = []
    for sigma in stage8.SIGMAS:
        network, info = load_checkpoint(tmp_path / f"{STEM.format(sigma)}.safetensors")
        assert (info["sigma"], info["training"]["trunk"]) == (sigma, [*stage8.SIGMAS])
        networks.append(dict(network.named_parameters()))
        table = read_table(tmp_path / f"{STEM.format(sigma)}_smoothed{sigma:g}_n200.tsv")
        claims = [Certificate.from_row(row) for row in table.to_dict("records")]
        assert [claim.recomputed() for claim in claims] == pytest.approx(table["radius"].tolist(), rel=1e-9)
        assert len(table) == 10
    same = {name for name, weight in networks[0].items() if torch.equal(weight, networks[-1][name])}
    assert same == {name for name in networks[0] if networks[0][name].ndim == 4}
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.stem != "record"}
    assert stage8.main([*CALL, str(tmp_path)]) == 0
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.stem != "record"}
    assert after == before

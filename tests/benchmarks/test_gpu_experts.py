"""Stage 3 on the CPU: the step against closed forms, and the whole stage at toy size."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.gpu import experts as stage3
from benchmarks.gpu.stage import Clock, pack, parser, unpack
from benchmarks.gpu.trainer import Consistent, Recipe, Trainer, crop, rate, rounded
from dualrs_lab.data import Images, load_images
from dualrs_lab.evidence import Certificate, read_table
from dualrs_lab.models import Classifier, fingerprint, load_checkpoint, make_model
from dualrs_lab.smoothing import label_votes


def digits(count: int = 64) -> Images:
    return load_images("digits", "train").select(range(count))


def fresh(seed: int = 0) -> Classifier:
    return make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.4], seed=seed)


def trainer(**settings: object) -> Trainer:
    recipe = replace(Recipe(batch=16, crop=1, flip=False), **settings)  # type: ignore[arg-type]
    made = Consistent(fresh(), digits(), recipe, lambda text: None)
    made.bfloat16 = False  # what is expected is computed to the last digits
    made.start(fresh(), seed=0, sigma=0.3, strength=1.0)
    return made


def test_the_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    recipe = Recipe(lr=0.4, warmup=0.2)
    assert [rate(done, recipe) for done in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.2, 0.4, 0.2, 0])


def test_updates_are_those_of_sgd_with_nesterov_momentum_and_their_running_mean() -> None:
    ours = trainer(clip=math.inf, lr=0.1)
    other = fresh()
    groups = [
        {"params": [w for w in other.parameters() if w.ndim > 1], "weight_decay": 5e-4},
        {"params": [w for w in other.parameters() if w.ndim <= 1], "weight_decay": 0.0},
    ]
    sgd = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    mean = [w.detach().clone() for w in other.parameters()]
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        gradients = [torch.randn(w.shape, generator=generator) for w in other.parameters()]
        ours.lr.fill_(0.1)
        ours.share.fill_(0.25)
        ours.update(gradients)
        for weight, gradient in zip(other.parameters(), gradients, strict=True):
            weight.grad = gradient.clone()
        sgd.step()
        mean = [0.75 * m + 0.25 * w.detach() for m, w in zip(mean, other.parameters(), strict=True)]
    torch.testing.assert_close([w.detach() for w in ours.weights], [w.detach() for w in other.parameters()])
    torch.testing.assert_close(ours.mean, mean)


def test_a_large_gradient_is_clipped_to_its_norm() -> None:
    ours = trainer(clip=2.0, momentum=0.0, weight_decay=0.0)
    before = [w.detach().clone() for w in ours.weights]
    ours.lr.fill_(1.0)
    ours.update([torch.full_like(w, 7.0) for w in ours.weights])
    moved = [(a - b.detach()).flatten() for a, b in zip(before, ours.weights, strict=True)]
    assert float(torch.cat(moved).norm()) == pytest.approx(2.0, rel=1e-3)


def test_batch_statistics_are_measured_anew_for_the_mean_weights() -> None:
    ours = trainer(statistics=4)
    ours.knobs["sigma"].fill_(0.0)
    generator = torch.Generator().manual_seed(2)
    ours.mean = [w + 0.1 * torch.randn(w.shape, generator=generator) for w in ours.mean]
    made = ours.finish()
    torch.testing.assert_close([w.detach() for w in made.parameters()], ours.mean)
    conv, norm = made.body.layer1[0], made.body.layer1[1]
    assert isinstance(norm, nn.BatchNorm2d)
    pixels, _ = digits().batch(torch.arange(64))
    # four batches of 16 are all 64 images, so the mean over batches is that of all
    maps = conv(made.normalize(pixels.float() / 255))
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    variances = [maps[number::4].var((0, 2, 3)) for number in range(4)]
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0), rtol=1e-4, atol=1e-5)


def test_crops_are_shifts_with_reflected_borders_and_mirrors_of_half_the_images() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3, 6, 6, 2), dtype=torch.uint8, generator=generator)
    index = torch.tensor([2, 0, 1] * 80)
    still = crop(pixels, index, Recipe(crop=0, flip=False), generator)
    torch.testing.assert_close(still, pixels[index].permute(0, 3, 1, 2) / 255)
    padded = nn.functional.pad(pixels.permute(0, 3, 1, 2).float(), (2, 2, 2, 2), mode="reflect") / 255
    moved = crop(pixels, index, Recipe(crop=2, flip=True), generator)

    def shifts(image: int) -> list[Tensor]:
        parts = [padded[image, :, i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
        return parts + [part.flip(2) for part in parts]

    found = [
        next(k for k, part in enumerate(shifts(int(i))) if torch.allclose(part, x))
        for i, x in zip(index, moved, strict=True)
    ]
    assert len({k % 25 for k in found}) == 25
    assert 80 < sum(k >= 25 for k in found) < 160


def test_training_lowers_the_loss_and_starting_anew_forgets_it() -> None:
    ours = trainer(lr=0.1, batch=32)
    ours.start(fresh(), seed=0, sigma=0.3, strength=0.0)
    history = ours.train(steps=40, seed=0)
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    trained = ours.finish()
    assert fingerprint(trained) != fingerprint(fresh())
    ours.start(fresh(), seed=0, sigma=0.3, strength=0.0)
    again = ours.train(steps=40, seed=0)
    assert [row["loss"] for row in again] == [row["loss"] for row in history]
    assert fingerprint(ours.finish()) == fingerprint(trained)


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    ours = trainer(lr=1e30, clip=1e30, warmup=0.0)
    with pytest.raises(FloatingPointError, match="at step"):
        ours.train(steps=40, seed=0)


def test_without_cuda_the_step_is_not_captured_and_says_so() -> None:
    said: list[str] = []
    assert not Consistent(fresh(), digits(), Recipe(batch=16), said.append).capture()
    assert said == ["no CUDA device: the training step is not captured"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("experts")
    assert stage3.main(["--toy", "--device", "cpu", "--minutes", "60", "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_tables_hold_all_votes_and_recompute(made: Path) -> None:
    for sigma in stage3.SIGMAS:
        table = read_table(made / f"digits_digits_narrow_sigma{sigma:g}_seed0_smoothed{sigma:g}_n200.tsv")
        assert len(table) == 10
        for row in table.to_dict("records"):
            one = Certificate.from_row({str(key): value for key, value in row.items()})
            assert (one.sigma, one.n) == (sigma, 200)
            assert one.radius == pytest.approx(one.recomputed(), rel=1e-12)


@pytest.mark.slow
def test_the_kept_network_is_the_one_that_was_certified(made: Path) -> None:
    stem = "digits_digits_narrow_sigma0.25_seed0"
    assert load_file(made / f"{stem}.safetensors")["body.fc.weight"].dtype == torch.float16
    model, info = load_checkpoint(made / f"{stem}.safetensors")
    assert info["sigma"] == 0.25
    assert info["training"]["steps"] == stage3.TOY.steps
    record = json.loads((made / f"{stem}_smoothed0.25_n200.json").read_text())
    assert record["identity"]["model"] == fingerprint(model)


def test_a_rounded_network_answers_as_the_trained_one_within_half_precision() -> None:
    ours = trainer(lr=0.1, batch=32)
    ours.train(steps=30, seed=0)
    model, x = ours.finish(), digits().batch(torch.arange(64))[0].float() / 255
    kept = rounded(model)
    torch.testing.assert_close(kept(x), model(x), rtol=2e-2, atol=2e-2)
    assert fingerprint(rounded(kept)) == fingerprint(kept)


@pytest.mark.slow
def test_labels_are_those_that_a_router_would_count(made: Path) -> None:
    path = made / "digits_digits_narrow_votes_held_out.safetensors"
    kept, images = load_file(path), load_images("digits", "train")
    chosen = images.select(kept["index"].long())
    assert set((kept["index"] % stage3.HOLD).tolist()) == {stage3.HOLD - 1}
    names = [made / f"digits_digits_narrow_sigma{sigma:g}_seed0.safetensors" for sigma in stage3.SIGMAS]
    models = [load_checkpoint(name)[0] for name in names]
    draws = {"sigmas": stage3.SIGMAS, "n": stage3.TOY.draws, "seed": stage3.SEED}
    assert torch.equal(label_votes(models, chosen, path, **draws), kept["votes"])
    torch.testing.assert_close(
        label_votes(models, chosen, path.with_name("own.safetensors"), **draws), kept["votes"]
    )
    assert (kept["counts"].sum(2) == stage3.TOY.draws).all()


@pytest.mark.slow
def test_the_board_shows_every_rule(made: Path) -> None:
    rules = set(pd.read_csv(made / "board.csv")["rule"])
    assert {"σ = 0.12", "σ = 1, two bounds", "cascade, routed", "envelope", "oracle"} <= rules


@pytest.mark.slow
def test_a_second_call_goes_on_and_the_results_fit_into_archives(made: Path) -> None:
    before = {path.name: path.read_bytes() for path in made.glob("*.tsv")}
    assert stage3.main(["--toy", "--device", "cpu", "--minutes", "60", "--out", str(made)]) == 0
    steps = [step["step"] for step in json.loads((made / "record.json").read_text())["steps"]]
    assert "all experts are there" in steps
    assert {path.name: path.read_bytes() for path in made.glob("*.tsv")} == before
    pack(made)
    assert all(path.suffix == ".zip" and path.stat().st_size < 15 * 2**20 for path in made.iterdir())
    unpack(made)
    assert {path.name: path.read_bytes() for path in made.glob("*.tsv")} == before


def test_without_time_parts_are_left_out_and_said(tmp_path: Path) -> None:
    arguments, clock = parser("", minutes=1e-4).parse_args(["--toy", "--device", "cpu"]), Clock(1e-4)
    stage3.work(arguments, clock, tmp_path)
    said = [text for _, text in clock.steps]
    assert sum("left out" in text for text in said) == 4
    assert sum(": 1 steps" in text for text in said) == len(stage3.SIGMAS)
    assert not list(tmp_path.glob("*.tsv"))


def test_single_experts_by_two_bounds_have_the_radius_of_the_formula() -> None:
    from scipy import special

    from dualrs_lab.cascade import Cascade, from_tables
    from dualrs_lab.evidence import decide, frame, lower_bound, upper_bound

    one = decide([0, 80, 20], [100, 700, 200], idx=0, label=1, sigma=0.5, alpha=0.001, seed=0, seconds=0.0)
    got = from_tables({0.5: frame([one])}, cascade=Cascade((0.5,), (-100.0,)), alpha=0.001)
    low, high = lower_bound(700, 1000, 0.0005), upper_bound(200, 1000, 0.0005)
    wanted = 0.25 * (special.ndtri(low) - special.ndtri(high))
    assert float(got["radius"].iloc[0]) == pytest.approx(float(wanted), rel=1e-12)


def test_what_ships_follows_from_its_votes() -> None:
    folder = Path(__file__).parents[2] / "data" / "cifar10_wide"
    stem = "cifar10_jpeg_wide_start_sigma{0:g}_seed0"
    files = {s: folder / f"{stem}_smoothed{{0:g}}_n10000.tsv".format(s) for s in stage3.SIGMAS}
    tables = {sigma: read_table(path) for sigma, path in files.items()}
    for sigma, table in tables.items():
        assert len(table) == 1000
        again = [Certificate.from_row(row).recomputed() for row in table.to_dict("records")]
        assert again == pytest.approx(table["radius"].tolist(), rel=1e-9)
        network, _ = load_checkpoint(folder / f"{stem}.safetensors".format(sigma))
        assert json.loads(files[sigma].with_suffix(".json").read_text())["identity"]["model"] == fingerprint(
            network
        )
    written = pd.read_csv(folder / "board.csv", index_col="rule")
    found = stage3.board(tables)
    assert found.to_numpy() == pytest.approx(written.to_numpy(), abs=1e-6, nan_ok=True)
    for what, images in (("trained", 27_500), ("held_out", 1_000)):
        votes = load_file(folder / f"cifar10_jpeg_wide_start_votes_{what}.safetensors")
        assert votes["counts"].shape == (images, len(stage3.SIGMAS), 10)
        assert (votes["counts"].long().sum(dim=2) == 200).all()
        assert votes["votes"].shape == (images, len(stage3.SIGMAS))

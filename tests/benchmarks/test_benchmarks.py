"""The benchmark compares like with like, and every part of it runs.

Two certificates of an image from independent draws differ by sampling error alone. To first order the radius
sigma Phi^-1(p) has standard deviation sigma sqrt(p (1 - p) / n) / phi(Phi^-1(p)); a difference is held to
five of its own, which arms that agree exceed with probability 6e-7 a comparison. Seeded.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from scipy import stats
from torch import Tensor, nn

from benchmarks import baselines, combiners, memory, mixing, overhead, per_draw, pixel_cost, pixels, quality
from benchmarks import certify as benchmark
from benchmarks.baselines import Textbook, art_missing, art_reason
from benchmarks.measure import Row, copy_bandwidth, frame, interleave, matmul_peak, traffic
from benchmarks.pages import resnet_mixes, small_mixes
from benchmarks.per_draw import ladder, prepare
from benchmarks.per_image import per_image
from benchmarks.report import table
from benchmarks.subjects import Subject, digits
from dualrs_lab.attacks import check_possible, read_evaluation
from dualrs_lab.combine import read_combiner, read_image_votes
from dualrs_lab.data import load_images, to_float
from dualrs_lab.dual import DualCertificate
from dualrs_lab.evidence import ABSTAIN, read_table
from dualrs_lab.experiment import Experiment
from dualrs_lab.mixing import summarise_systems
from dualrs_lab.models import fingerprint, load_checkpoint, make_model, save_checkpoint
from dualrs_lab.smoothing import FastPath, GaussianNoise, Spec, certify
from dualrs_lab.smoothing import frozen as fastpath
from dualrs_lab.store import read_record

SIGMA, ALPHA, N = 0.3, 0.001, 20_000
needs_art = pytest.mark.skipif(bool(art_missing()), reason=f"not installed: {', '.join(art_missing())}")


def half_space(x: Tensor) -> Tensor:
    first = x.flatten(1)[:, 0]
    return torch.stack([0.5 - first, first - 0.5], dim=1)


def textbook(network: Callable[[Tensor], Tensor] = half_space, **changes) -> Textbook:
    settings = {"classes": 2, "sigma": SIGMA, "n0": 100, "n": N, "alpha": ALPHA, "batch": 400}
    generator = torch.Generator().manual_seed(1)
    return Textbook(network=network, generator=generator, **settings | changes)


def standard_error(radius: float, sigma: float, n: int) -> float:
    """Of the difference of two radii from n draws each."""
    z = max(radius, 0.05 * sigma) / sigma
    p = stats.norm.cdf(z)
    return float(np.sqrt(2 * p * (1 - p) / n) / stats.norm.pdf(z) * sigma)


def half_space_points() -> Tensor:
    return torch.tensor([[0.6, 0.0], [0.7, 0.3], [0.95, 1.0], [0.2, 0.4]]).view(4, 1, 1, 2)


def test_textbook_and_engine_agree_on_a_half_space() -> None:
    x = half_space_points()
    ours = certify(half_space, x, classes=2, spec=Spec(noise=GaussianNoise(SIGMA), seed=0, n=N, alpha=ALPHA))
    one, moved = textbook(), textbook(lambda x: half_space(x - 0.03))
    for certificate, image in zip(ours, x, strict=True):
        tolerance = 5 * standard_error(certificate.radius, SIGMA, N)
        answer, radius = one.certify(image)
        assert answer == certificate.predict
        assert abs(radius - certificate.radius) < tolerance
        assert radius < abs(float(image.flatten()[0]) - 0.5)  # the exact one; each may fail at level ALPHA
        # Negative control: with the plane 0.03 away from where it is, they disagree.
        assert abs(moved.certify(image)[1] - certificate.radius) > tolerance


def test_textbook_where_all_draws_agree_and_where_they_do_not() -> None:
    always, image = textbook(lambda x: torch.tensor([[0.0, 1.0]]).expand(len(x), 2)), torch.zeros(1, 1, 2)
    answer, radius = always.certify(image)
    assert answer == 1
    assert radius == pytest.approx(SIGMA * stats.norm.ppf(ALPHA ** (1 / N)), rel=1e-9)
    assert textbook().certify(torch.full((1, 1, 2), 0.5)) == (ABSTAIN, 0.0)
    assert sum(textbook(batch=30).count(image, 100)) == 100  # a last batch that is not full


@pytest.fixture(scope="module")
def numbers() -> Subject:
    return digits(torch.device("cpu"), images=6, epochs=2, sigma=0.25, seed=0, engine_batch=600)


def agree(subject: Subject, n: int, one: Callable[[int], tuple[int, float]]) -> None:
    ours = subject.certify(subject.voter(FastPath(compile=False), torch.float32), n)
    assert sum(c.predict != ABSTAIN for c in ours) >= 3
    for certificate in ours:
        answer, radius = one(certificate.idx)
        low, high = sorted([radius, certificate.radius])
        tolerance = 5 * standard_error(high, subject.sigma, n)
        assert high - low < tolerance
        assert low == 0 or answer == certificate.predict


def test_textbook_and_engine_agree_on_digits(numbers: Subject) -> None:
    one = numbers.textbook(1000)
    agree(numbers, 1000, lambda position: one.certify(numbers.image(position)))


@needs_art
def test_toolbox_and_engine_agree_on_digits(numbers: Subject) -> None:
    np.random.seed(0)  # noqa: NPY002  # the toolbox draws from the global generator
    one = numbers.art()
    agree(numbers, 1000, lambda position: one.certify(numbers.image(position), n=1000, batch=400))


def test_why_the_toolbox_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "art_missing", lambda: [])
    assert art_reason(1000, (3, 32, 32), 10**9) == ""
    assert "6.1 GB" in art_reason(100_000, (3, 32, 32), 10**9)
    monkeypatch.setattr(baselines, "art_missing", lambda: ["statsmodels"])
    assert "not installed: statsmodels" in art_reason(1, (1,), 10**9)


def test_a_step_that_fails_is_left_out(numbers: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(fastpath, "_compiled", fail)
    monkeypatch.setattr("benchmarks.per_draw.int8_reason", lambda device: "not here")
    steps = ladder(torch.device("cpu"), torch.bfloat16)
    assert list(steps)[-2:] == ["+ bfloat16", "+ compiled"]
    with pytest.warns(UserWarning, match="without the step 'compile': RuntimeError: no compiler"):
        voters, found = prepare(numbers, steps, "to certify", every=False)
    assert list(voters) == ["+ bfloat16"]
    assert found[0] == "'+ compiled' is left out: compile failed on this machine."
    monkeypatch.setattr("benchmarks.per_draw.int8_reason", lambda device: "")
    assert list(ladder(torch.device("cpu"), torch.bfloat16))[-2:] == ["+ compiled", "+ int8"]
    assert "+ int8" not in ladder(torch.device("cpu"), torch.bfloat16, compiled=False)


def test_rounds_are_interleaved_and_start_with_another_arm_each() -> None:
    calls: list[tuple[str, int]] = []
    arms = {name: lambda turn, name=name: calls.append((name, turn)) for name in "ab"}
    seconds = interleave(arms, 3)
    assert calls == [("a", 0), ("b", 0), *[("a", 0), ("b", 0)], *[("b", 1), ("a", 1)], *[("a", 2), ("b", 2)]]
    assert [len(values) for values in seconds.values()] == [3, 3]
    calls.clear()
    interleave(arms, 1, warm=False)
    assert len(calls) == 2


def test_ceilings_are_those_of_a_computer() -> None:
    cpu = torch.device("cpu")
    assert 1e8 < matmul_peak(cpu, torch.float32, seconds=0.01) < 1e15
    assert 1e8 < copy_bandwidth(cpu, seconds=0.01) < 1e13


def test_traffic_counts_what_layers_read_and_write() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))
    assert traffic(network, (3, 4, 4), 2) == 2 * (3 * 16 + 8 * 16 + 8 * 16 + 10)


def test_memory_is_judged_by_its_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"ours": 100, "textbook": 100, "ART": 2000}  # bytes a draw
    monkeypatch.setattr(memory, "_peak", lambda arm, n, *_: 8e8 + kept[arm] * n)
    monkeypatch.setattr(memory, "art_reason", lambda *_: "")
    found = list(memory.memory(torch.device("cpu"), draws=[1000, 100_000], pixels=8))
    remarks = [item for item in found if isinstance(item, str)]
    assert remarks == [
        "memory, ours: independent of n (+10 MB from n = 1,000 to 100,000).",
        "memory, textbook: independent of n (+10 MB from n = 1,000 to 100,000).",
        "memory, ART: grows with n (+198 MB from n = 1,000 to 100,000).",
    ]
    assert [row.values for row in found if isinstance(row, Row)][:2] == [[800.1], [810.0]]


def test_tables_show_medians_and_quartiles() -> None:
    rows = [Row("p", "ours", "time", "s", [1.0, 2.0, 4.0]), Row("p", "theirs", "time", "s", [250.0])]
    text = table(rows, "p")
    assert "| ours   | 2 [1.5, 3] |" in text
    assert "| theirs | 250        |" in text
    assert frame(rows)["median"].tolist() == [2.0, 250.0]


TINY = {
    "draws": 50, "rounds": 1, "images": 4, "compare": 2, "full": 1, "n": 200, "n0": 50, "together": 1,
    "epochs": 1, "batch": 50, "engine-batch": 100, "growth-draws": 50, "growth-images": "1,2",
    "growth-sizes": 16, "growth-sigmas": 1, "memory-draws": 100, "device": "cpu",
}  # fmt: skip


def test_every_part_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "ARMS", ("ours",))  # the baselines would only take longer
    for ceiling in ("matmul_peak", "copy_bandwidth"):  # measured below
        monkeypatch.setattr(per_draw, ceiling, lambda *_: 1e11)
    options = [text for name, value in TINY.items() for text in (f"--{name}", str(value))]
    rows = benchmark.main([*options, "--no-compile", "--out", str(tmp_path)])
    assert {row.part for row in rows} == {*benchmark.PARTS, "preparation", "machine"}
    times = [value for row in rows if row.unit in ("s", "µs", "MB", "GB/s") for value in row.values]
    assert min(times) > 0
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["provenance"]["versions"]["torch"]
    assert len(record["rows"]) == len(rows) == len(pd.read_csv(tmp_path / "bench.csv"))
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for part in benchmark.PARTS:
        assert f"| {part} " in printed
        assert f"| {part} " in (tmp_path / "bench.md").read_text()
    assert ("ART is left out" in printed) == bool(art_missing())


def test_rules_that_stop_early_are_compared_on_the_same_images(numbers: Subject) -> None:
    voter = numbers.voter(FastPath(compile=False), torch.float32)
    found = per_image(numbers, voter, n=500, draws=100, rounds=2, compare=4, full=0, radii=[0.1, 0.2])
    rows = {(row.arm, row.quantity, row.at): row.values for row in found if isinstance(row, Row)}
    assert len(rows["all draws", "draws per image", None]) == 4
    assert len(rows["at radii", "draws per image", None]) == 6
    assert set(rows["all draws", "draws per image", None]) == {600.0}
    assert rows["all draws", "mean radius lost", None] == rows["all draws", "claims lost", None] == [0.0]
    for arm in ("all draws", "at radii", "input-specific"):
        low, high = (rows[arm, "certified accuracy, the compared 4 images", r][0] for r in (0.2, 0.1))
        assert 0 <= low <= high <= 100


def test_one_network_may_be_prepared_for_both_jobs(numbers: Subject) -> None:
    steps = ladder(torch.device("cpu"), torch.float32, compiled=False)
    found = [prepare(numbers, steps, purpose, every=False)[1] for purpose in ("to time draws", "to certify")]
    rows = [row for part in found for row in part if isinstance(row, Row)]
    made = table(rows, "preparation")
    assert "to time draws" in made
    assert "to certify" in made


def test_options_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--parts", "per_draw,drawing"])
    assert "got drawing; wanted some of per_draw" in capsys.readouterr().err


# Systems of several noise levels.

DATA = Path(__file__).parents[2] / "data"
SYSTEMS = DATA / "cifar10_systems"


def test_the_shipped_comparison_follows_from_the_shipped_tables() -> None:
    """From every vote again: the board of notebook 22 and docs/results.md is not typed in."""
    shipped = Experiment.shipped(DATA)
    singles, tuned = shipped.singles(quality.SIGMAS), dataclasses.replace(shipped, folder=SYSTEMS)
    own = {s: read_table(tuned.tuned_certificates(s)) for s in quality.SIGMAS}
    found = {
        "comparison": quality.board(singles, read_table(SYSTEMS / "dual.tsv")),
        "comparison_tuned": quality.tuned_board(singles, own),
    }
    for called, made in found.items():
        written = pd.read_csv(SYSTEMS / f"{called}.csv", index_col="rule")
        pd.testing.assert_frame_equal(made, written, atol=1e-6)
    for row in read_table(SYSTEMS / "dual.tsv").to_dict("records"):
        found = DualCertificate.from_row(row).routes
        assert (found.routed, found.published) == pytest.approx((row["radius"], row["published"]), rel=1e-9)


def test_the_cost_of_a_system_is_measured_on_every_arm(tmp_path: Path, capsys) -> None:
    for kind in ("a", "b"):
        (tmp_path / "test" / kind).mkdir(parents=True)
        (tmp_path / "train" / kind).mkdir(parents=True)
        for split in ("test", "train"):
            pixels = np.random.default_rng(len(kind)).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / kind / "0.png")
    rows = overhead.main(
        ["--data", f"folder:{tmp_path}", "--n", "200", "--images", "1", "--rounds", "2", "--no-compile",
         "--out", str(tmp_path / "out"), "--device", "cpu"]
    )  # fmt: skip
    arms = {row.arm for row in rows}
    assert arms == {
        "one classifier, σ = 0.5",
        *(f"dual, router n{part}" for part in ("", " / 10")),
        *(f"cascade, others n{part}" for part in ("", " / 10")),
    }
    more = {row.arm: row.values for row in rows if row.quantity == "more than one classifier"}
    assert more["one classifier, σ = 0.5"] == [0.0, 0.0]
    draws = {row.arm: row.values[0] for row in rows if row.quantity == "mean draws per image"}
    assert draws["one classifier, σ = 0.5"] == 300
    assert draws["dual, router n / 10"] <= draws["dual, router n"] - 2 * 180
    assert draws["cascade, others n / 10"] <= draws["cascade, others n"]
    assert "overhead" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "overhead.json").read_text())["n"] == 200


def test_the_cost_of_pixels_is_measured_in_every_arm(tmp_path: Path) -> None:
    rows = pixel_cost.main(["--rounds", "1", "--batch", "8", "--steps", "1", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "pixel_cost.json").read_text())
    assert len(written["rows"]) == len(rows) == 2 * 6 + 3 * 3
    assert all(np.isfinite(row.values).all() for row in rows)
    assert "AT with pixels, 1 attack steps" in (tmp_path / "pixel_cost.md").read_text()


def test_every_arm_of_the_pixels_is_trained_attacked_and_resumed(tmp_path: Path) -> None:
    for split, count in (("train", 12), ("test", 4)):
        for label in range(4):
            for number in range(count):
                picture = np.random.default_rng([label, number]).integers(0, 256, (32, 32, 3), np.uint8)
                place = tmp_path / "pictures" / split / f"c{label}" / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(place)
    names = list(pixels.arms(pixels.INNER))
    assert set(pixels.CORE) <= set(names)
    options = [
        "--data",
        f"folder:{tmp_path}/pictures",
        "--out",
        str(tmp_path),
        "--seeds",
        "0",
        "--warmup",
        "1",
    ]
    options += ["--epochs", "1", "--images", "8", "--held-out", "8", "--batch", "16"]
    found = pixels.main([*options, "--arms", "at,part4,uniform4,trades_part4"])
    assert found["arm"].tolist() == ["at", "part4", "uniform4", "trades_part4"]
    assert (found["worst"] <= found["natural"]).all()
    budget = found.set_index("arm")["budget"]
    assert budget["at"] == pytest.approx(8)
    assert budget["part4"] == pytest.approx(budget["uniform4"], abs=0.002)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    again = pixels.main([*options, "--arms", "at,part4"])
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    pd.testing.assert_frame_equal(again, found.head(2))
    options[3:4] = [str(tmp_path / "started"), "--start", str(tmp_path / "at_seed0.safetensors")]
    started = pixels.main([*options, "--arms", "uniform4", "--without-mma", "--lr", "1e-9"])
    assert "mma" not in started
    assert not [*(tmp_path / "started").glob("warmup*")]
    files = [tmp_path / "at_seed0.safetensors", tmp_path / "started/uniform4_seed0.safetensors"]
    began, ended = (next(part for part in load_file(file).values() if part.ndim == 4) for file in files)
    assert np.allclose(began, ended, atol=1e-6)  # at such a rate a network stays what it began as


def test_the_shipped_arms_are_those_of_their_tables() -> None:
    folder = Path(__file__).parents[2] / "data/cifar10_pixels"
    shipped, more = (pd.read_csv(folder / f"{one}.csv") for one in ("arms", "more"))
    assert set(pixels.CORE) == set(shipped["arm"])
    assert len(more) == more["arm"].nunique() == 10
    for row in pd.concat([shipped, more]).to_dict("records"):
        answers = read_evaluation(folder / f"{row['arm']}_seed{row['seed']}_attacked.tsv")
        check_possible(answers)
        assert answers["idx"].tolist() == list(range(0, 10_000, 10))
        for name in ("natural", "pgd", "mma", "worst"):
            assert answers[name].mean() == pytest.approx(row[name])
    assert shipped.groupby("arm").size().eq(3).all()
    for row in pd.read_csv(folder / "autoattack.csv").to_dict("records"):
        answers = read_evaluation(folder / f"{row['arm']}_seed{row['seed']}_autoattack.tsv")
        check_possible(answers)
        assert len(answers) == row["images"] == 200
        for name in ("natural", "pgd", "autoattack"):
            assert answers[name].mean() == pytest.approx(row[name])


def test_mixes_are_made_judged_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "WEIGHTS", (0.0, 0.7, 1.0))
    monkeypatch.setattr(mixing, "LOGIT_WEIGHTS", (0.5,))
    monkeypatch.setattr(mixing, "RANGES", ((0.6, 0.95),))
    robust = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=1)
    save_checkpoint(tmp_path / "robust.safetensors", robust, data={"classes": list("0123456789")})
    options = ["--data", "digits", "--model", "digits_narrow"]
    options += ["--robust", str(tmp_path / "robust.safetensors")]
    options += ["--epochs", "1", "--head-epochs", "1", "--steps", "1", "--images", "12", "--held-out", "1200"]
    options += ["--fitted", "300", "--batch", "64", "--out", str(tmp_path)]
    judged = mixing.main([*options, "--parts", "margins,l2,systems"])
    assert judged.index.tolist() == [
        "weight 0", "weight 0.7", "weight 1", "logits 0.5", "adaptive 0.6-0.95", "MixedNUTS"
    ]  # fmt: skip
    assert (judged["worst"] <= judged["natural"]).all()
    assert {*pd.read_csv(tmp_path / "margins.csv")["network"]} == {"accurate", "robust"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    pd.testing.assert_frame_equal(mixing.main([*options, "--parts", "systems"]), judged)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    auto = [*options, "--parts", "autoattack", "--auto-images", "3", "--auto-steps", "2"]
    auto += ["--auto-attacks", "apgd-ce,apgd-t"]
    found = mixing.main([*auto, "--auto", "adaptive 0.6-0.95,weight 0.7"])
    assert found.index.tolist() == ["adaptive 0.6-0.95", "weight 0.7"]
    assert (found["worst"] <= found[["autoattack", "pushed", "end_to_end"]].min(axis=1)).all()
    with pytest.raises(ValueError, match=r"got --auto \['weight 0.8'\]; wanted some of weight 0, weight 0.7"):
        mixing.main([*auto, "--auto", "weight 0.8"])


def test_of_networks_that_are_there_only_the_kinds_asked_for_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mixing, "WEIGHTS", (0.0, 1.0))
    for seed, name in enumerate(("accurate", "robust")):
        model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=seed)
        save_checkpoint(tmp_path / f"{name}.safetensors", model, data={"classes": list("0123456789")})
    options = ["--data", "digits", "--images", "12", "--out", str(tmp_path / "made"), "--held-out", "1200"]
    for name in ("accurate", "robust"):
        options += [f"--{name}", str(tmp_path / f"{name}.safetensors")]
    judged = mixing.main([*options, "--kinds", "weights", "--parts", "systems"])
    assert judged.index.tolist() == ["weight 0", "weight 1"]
    assert not [*(tmp_path / "made").glob("*.safetensors")]  # nothing was trained
    rows = read_evaluation(tmp_path / "made" / "systems.tsv").set_index(["system", "idx"])["natural"]
    for system, name in (("weight 0", "accurate"), ("weight 1", "robust")):
        images = load_images("digits", "test").select(rows[system].index.tolist())
        model = load_checkpoint(tmp_path / f"{name}.safetensors")[0].eval()
        pictures, labels = images.batch(torch.arange(len(images)))
        assert rows[system].tolist() == (model(to_float(pictures)).argmax(1) == labels).tolist()
    with pytest.raises(SystemExit):
        mixing.main([*options, "--kinds", "weights,lots"])
    assert "got ['lots']; wanted some of weights, logits, adaptive, nuts" in capsys.readouterr().err


def test_the_shipped_mixes_are_those_of_their_tables() -> None:
    folder = Path(__file__).parents[2] / "data/cifar10_mixing"
    for name, images in {"systems": 1000, "sharpened": 500, "weights_l2": 500, "autoattack": 100}.items():
        answers = read_evaluation(folder / f"{name}.tsv")
        shipped = pd.read_csv(folder / f"{name}.csv").set_index("system")
        found = summarise_systems(answers)
        assert (found["images"] == images).all()
        pd.testing.assert_frame_equal(found, shipped, check_names=False, atol=1e-6)
        for column in found.columns.difference(["weight", "images", "natural"]):
            assert not (answers[column] & ~answers["natural"]).any()
    strong, ours = (read_evaluation(folder / f"{one}.tsv") for one in ("autoattack", "systems"))
    both = strong.merge(ours, on=["idx", "system"], suffixes=("", "_ours"))
    assert len(both) == len(strong) == 4 * 100
    assert both["natural"].equals(both["natural_ours"].rename("natural"))
    certified = pd.read_csv(folder / "certified.csv")
    assert (certified["0"] <= certified["natural"] + 1e-9).all()


@pytest.mark.parametrize(("name", "step"), [("autoattack", 20), ("systems", 10)])
def test_the_shipped_small_mixes_are_those_of_their_tables_and_networks(name: str, step: int) -> None:
    folder = DATA / "cifar10_small_mixes"
    found = read_evaluation(folder / f"{name}.tsv")
    assert found["idx"].unique().tolist() == list(range(0, 10_000, step))
    shipped = pd.read_csv(folder / f"{name}.csv").set_index("system")
    pd.testing.assert_frame_equal(summarise_systems(found), shipped, check_names=False, atol=1e-6)
    stem = DATA / "cifar10_adversarial/cifar10_jpeg_wide_start_small"
    networks = [load_checkpoint(f"{stem}_{arm}_seed0.safetensors")[0] for arm in ("accurate", "at")]
    assert read_record(folder / f"{name}.tsv")["identity"]["networks"] == [*map(fingerprint, networks)]


def test_the_words_on_small_mixes_hold() -> None:
    mix = small_mixes.mix()
    check_possible(read_evaluation(small_mixes.SMALL / "autoattack.tsv"))
    found = mix.mean()
    assert found["worst"] <= found["autoattack"] <= found["end_to_end"] < found["on_robust"]
    height = small_mixes.by_lot()
    assert height.mean() > 2 * height.sem()
    assert small_mixes.missed_by_apgd().mean() > 0
    heights = resnet_mixes.lifted(small_mixes.SMALL)
    natural = resnet_mixes.by_weight(resnet_mixes.systems(small_mixes.SMALL))["natural"]
    more = natural.index[natural > natural[0]]
    assert {0.3, 0.45, 0.5, 0.55} == {*more}
    inside = [f"weight {a:g}" for a in natural.index if 0.55 < a < 1]
    assert all(heights[name].mean() > 2 * heights[name].sem() for name in inside)
    nuts = resnet_mixes.nuts_above_fixed(small_mixes.SMALL)
    assert abs(nuts.mean()) < 2 * nuts.sem()  # one more weight
    missed = {name for name, aim in small_mixes.aims().items() if not aim.holds}
    assert missed <= {name for name, aim in resnet_mixes.aims().items() if not aim.holds}
    assert len(missed) == 4


def test_the_shipped_combiners_follow_from_the_shipped_votes() -> None:
    """Every combiner of the front, from the votes about test images; the shipped table is of one of them."""
    written = pd.read_csv(SYSTEMS / "combiners.csv")
    kept = {name: read_combiner(SYSTEMS / f"combiner_{name}.json") for name in combiners.DIAL}
    made = combiners.front_of(kept)
    pd.testing.assert_frame_equal(made, written, atol=1e-6)
    shipped = read_table(SYSTEMS / "combined.tsv")
    assert shipped["combiner"].unique().tolist() == [kept[combiners.CHOSEN].text]
    assert len(shipped) == 500


def test_the_shipped_votes_about_training_images_are_of_the_shipped_experts() -> None:
    counts, labels, about = read_image_votes(SYSTEMS / "votes_trained.safetensors", combiners.ORDER)
    assert counts.shape == (6250, 3, 10)
    assert (counts.sum(axis=2) == combiners.DRAWS).all()
    assert labels.tolist() == [index // 5000 for index in range(0, 50_000, combiners.STEP)]
    shipped = Experiment.shipped(DATA)
    known = [fingerprint(load_checkpoint(shipped.expert(sigma))[0]) for sigma in quality.SIGMAS]
    assert about["experts"] == known
    right = (counts.argmax(axis=2) == labels[:, None]).mean(axis=0)
    assert (np.abs(right - [0.55, 0.69, 0.80]) < 0.03).all()  # σ = 1, 0.5, 0.25

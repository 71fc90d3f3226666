"""What docs/results.md and docs/speed.md say in words is what the tables under data/ say."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import imagenet
from benchmarks.pages import (
    certificates,
    denoised,
    gpu,
    larger,
    mixing,
    photographs,
    pixels,
    resnet,
    resnet_mixes,
    speed,
    text,
)
from benchmarks.quality import RADII, SIGMAS
from dualrs_lab.evidence import certified_accuracy
from dualrs_lab.mixing import margin_groups, mixed


def test_the_words_on_cascades_hold() -> None:
    found = pd.read_csv(certificates.SYSTEMS / "comparison.csv", index_col="rule")
    radii = [f"{r:g}" for r in RADII]
    cascade, dial = found.loc["cascade, routed"], found.loc["cascade, routed, t = 0.3"]
    singles = found.loc[[f"σ = {s:g}" for s in SIGMAS]]
    assert singles["acr"].idxmax() == "σ = 1"
    assert (cascade[radii[:7]] >= found.loc["σ = 1", radii[:7]]).all()  # nowhere below it up to 1.5
    assert (dial[radii[:8]] > found.loc["σ = 0.5", radii[:8]]).all()  # which certifies nothing further out
    assert found.loc["σ = 0.5", radii[8]] == 0
    two = found.loc["σ = 1, two bounds"]
    others = found["acr"].drop(["σ = 1, two bounds", "oracle", "oracle, two bounds"])
    assert two["acr"] > others.max()  # by two bounds no system is above sigma = 1
    gain = (cascade[radii] - two[radii]).to_numpy()
    assert (gain[:3] > 0).all()  # up to 0.5
    assert (gain[3:] <= 0).all()
    assert dial["0"] > cascade["0"]
    gained = {s: found.loc[f"σ = {s:g}, two bounds"] - found.loc[f"σ = {s:g}"] for s in SIGMAS}
    assert min(gained, key=lambda s: gained[s]["acr"]) == 0.25
    assert gained[0.25]["acr"] > 0
    assert gained[0.25]["0.75"] < 0


def test_the_words_on_experts_trained_together_hold() -> None:
    found = pd.read_csv(certificates.SYSTEMS / "comparison_tuned.csv", index_col="rule")
    radii = [f"{r:g}" for r in RADII]
    alone, cascade = found.loc["tuned, σ = 1, two bounds"], found.loc["tuned cascade, routed"]
    assert alone["acr"] == pytest.approx(cascade["acr"], abs=0.005)
    assert (alone[radii[3:]] >= cascade[radii[3:]]).all()
    assert (alone[radii[:3]] < cascade[radii[:3]]).all()


def test_the_words_on_larger_experts_hold() -> None:
    found = larger.board()
    alone = {s: found.loc[f"σ = {s:g}"] for s in larger.SIGMAS}
    above = {s: larger.points(alone[s], larger.published("Cohen 2019", s)) for s in alone}
    assert all((above[s].drop("0") > 0).all() for s in above)  # level by level from 0.25 on
    assert [s for s in above if above[s]["0"] < 0] == [0.5, 1.0]
    error = {s: np.hypot(*(100 * np.sqrt(0.25 / n) for n in (1000, 500))) for s in (0.5, 1.0)}
    assert all(-above[s]["0"] < error[s] for s in error)
    best = found.loc["envelope"]
    assert (larger.points(best, larger.published("Cohen 2019")) > 0).all()
    consistency = {s: larger.points(alone[s], larger.published("Consistency", s)) for s in alone if s > 0.12}
    assert all((consistency[s] < 0).all() for s in consistency)
    assert larger.points(best, larger.published("CAT-RS")).min() < 0
    for one in (above, consistency):  # the expert that is furthest below at r = 0
        assert min(one, key=lambda s: one[s]["0"]) == 1.0
    gain = {s: found["acr"][f"σ = {s:g}, two bounds"] - found["acr"][f"σ = {s:g}"] for s in alone}
    assert max(gain, key=gain.__getitem__) == 1.0
    assert [s for s in gain if gain[s] < 0] == [0.12, 0.25]


@pytest.mark.parametrize("threshold", ["", ", t = 0.15", ", t = 0.3"])
def test_the_words_on_their_cascade_hold(threshold: str) -> None:
    found, radii = larger.board(), larger.board().columns[:-1]
    assert list(radii) == ["0", "0.25", "0.5", "0.75", "1", "1.25", "1.5", "2"]
    cascade = found.loc[f"cascade, routed{threshold}"]
    for rule in ("σ = 0.5, two bounds", "σ = 0.5"):
        beyond = cascade[radii] - found.loc[rule, radii]
        assert (beyond[:6] < 0).all()  # up to 1.25
        assert (beyond[6:] > 0).all()
    if not threshold:
        beyond = (cascade[radii] - found.loc["σ = 1, two bounds", radii]).to_numpy()
        assert (beyond[:6] > 0).all()
        assert beyond[6] == 0
        assert beyond[7] < 0
        paired = larger.cascade_beyond()
        assert paired.mean() == pytest.approx(cascade["acr"] - found["acr"]["σ = 1, two bounds"], abs=2e-6)
        assert paired.mean() > 2 * paired.std() / np.sqrt(len(paired))


def test_the_words_on_the_gpu_hold() -> None:
    for part in (gpu.FAST, gpu.DEEP):
        bench = speed.Bench("gpu_speed", part)
        times = bench.rows[bench.rows["quantity"] == gpu.TIMES].set_index("arm")["median"]
        assert times.max() < 10  # the aim is not reached
        assert times["+ CUDA graph"] == pytest.approx(times["+ bfloat16"], rel=0.03)  # next to nothing
        assert ("+ compiled" in times) == (part == gpu.FAST)
        shares = bench.rows[bench.rows["quantity"].str.contains("of the ")]["median"]
        assert shares.max() < 20  # far from both limits
    found = gpu.sampled()
    assert found["wide"].share > 2 * found["fast"].share
    deep = speed.Bench("gpu_speed", "machine").rows.query("quantity == 'operations per draw'")["median"].max()
    assert found["wide"].operations < 1e6 * deep  # so it is not for want of operations
    checks = pd.read_csv(text.DATA / "benchmarks" / "gpu_checks.csv")
    assert (checks["outcome"] == "ok").all()
    books = checks[checks["part"] == "notebooks"]["name"]
    assert len(books[books.str.match(r"\d\d_")]) == 3


def test_the_words_on_pixels_and_mixes_hold() -> None:
    arms = pd.read_csv(pixels.PIXELS / "arms.csv").groupby("arm")[["natural_all", "pgd"]].mean()
    assert arms["natural_all"]["part7"] == pytest.approx(arms["natural_all"]["uniform7"], abs=0.001)
    assert arms["pgd"]["part7"] == pytest.approx(arms["pgd"]["uniform7"], abs=0.005)
    found = pd.read_csv(mixing.MIXING / "systems.csv").set_index("system")
    fixed = found[found.index.str.startswith("weight")].sort_values("natural")
    for system in ("adaptive 0.5-1", "adaptive 0.7-0.99"):
        natural, worst = found.loc[system, ["natural", "worst"]]
        assert worst < np.interp(
            natural, fixed["natural"], fixed["worst"]
        )  # a fixed weight of equal accuracy
    assert found["worst"]["MixedNUTS"] == pytest.approx(found["worst"]["weight 1"], abs=0.01)
    log = certificates.published_log(0.5)
    assert (
        certified_accuracy(mixed(log, 0.76, form="smoothing", rule="cohen", sigma=0.5), [0.5, 1.0]) == 0
    ).all()


# PART and mixes at ResNet-18 size, and denoised smoothing.


def test_the_errors_of_paired_accuracies_are_those_of_mcnemar() -> None:
    for arm, other in resnet.CONTROLS.items():
        mine, theirs = resnet.answers(arm), resnet.answers(other)
        for what in ("natural", "pgd"):
            only_mine, only_theirs = ((mine[what] > theirs[what]).sum(), (mine[what] < theirs[what]).sum())
            n, gap = len(mine), only_mine - only_theirs
            wanted = np.sqrt(only_mine + only_theirs - gap**2 / n) / n
            found = resnet.apart(arm, other)[what]
            assert found.mean() == pytest.approx(gap / n)
            assert found.sem() == pytest.approx(wanted, rel=1e-3)
            assert found.sem() < np.hypot(mine[what].sem(), theirs[what].sem())  # what pairing is for


def test_networks_that_met_other_images_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"one": resnet.answers("at"), "other": resnet.answers("part4").iloc[1:]}
    monkeypatch.setattr(resnet, "answers", lambda arm, what: tables[arm])
    with pytest.raises(ValueError, match="one and other were not attacked on the same images"):
        resnet.apart("one", "other")


def test_the_error_of_a_height_above_a_line_is_that_of_drawing_images_anew() -> None:
    parts = [resnet.answers(arm) for arm in ("part7", "at", "uniform7")]
    found = resnet.above(*parts, "pgd")
    (one, start, end), chance = (part.mean() for part in parts), np.random.default_rng(0)
    share = (one["natural"] - start["natural"]) / (end["natural"] - start["natural"])
    assert found.mean() == pytest.approx(one["pgd"] - start["pgd"] - share * (end["pgd"] - start["pgd"]))
    draws = [chance.integers(0, len(found), len(found)) for _ in range(200)]
    again = [resnet.above(*(part.iloc[rows] for part in parts), "pgd").mean() for rows in draws]
    assert found.sem() == pytest.approx(np.std(again), rel=0.2)  # 200 draws err by 5 %


def test_the_words_on_part_at_resnet_18_size_hold() -> None:
    arms = pd.read_csv(resnet.ADVERSARIAL / "arms.csv").set_index("arm")
    for part, control in resnet.CONTROLS.items():
        assert arms.loc[control, "budget"] == pytest.approx(arms.loc[part, "budget"], abs=0.01)
        assert arms.loc[control, "epochs"] > arms.loc[part, "epochs"]
        assert np.isnan(arms.loc[control, "apgd"])
        natural = resnet.apart(part, control)["natural"]
        assert natural.mean() < -2 * natural.sem()  # no gain over its control
        assert resnet.apart(part, "at")["natural"].mean() > 0
    pgd = {part: resnet.apart(part, control)["pgd"] for part, control in resnet.CONTROLS.items()}
    errors = {part: one.mean() / one.sem() for part, one in pgd.items()}
    assert errors["part7"] > 2
    assert 0 < errors["part4"] < 1
    heights = {part: resnet.line(part).mean() / resnet.line(part).sem() for part in resnet.CONTROLS}
    assert 0 < heights["part7"] < 1
    assert heights["part4"] < -2
    assert arms.loc["at", "pgd"] < 0.5
    assert arms["epochs"].idxmin() == "at"
    apgd = resnet.apart("part4", "at", "apgd")["autoattack"]
    assert len(apgd) == arms.loc["at", "apgd_images"]
    assert apgd.mean() < -2 * apgd.sem()


def test_the_words_on_mixes_of_resnets_hold() -> None:
    found = resnet_mixes.systems()
    inside = found[found["weight"].between(0.5, 1, inclusive="neither") & (found.index != "MixedNUTS")]
    more = inside["natural"] > found["natural"]["weight 0"]
    assert list(inside.index[more]) == ["weight 0.55", "weight 0.6"]
    heights = resnet_mixes.lifted()
    assert all(heights[name].mean() > 2 * heights[name].sem() for name in inside.index[~more])
    assert found["worst"]["weight 0"] == 0
    nuts = resnet_mixes.nuts_above_fixed()
    assert 0 < nuts.mean() < 2 * nuts.sem()  # one more weight
    assert found["worst"]["weight 1"] == pytest.approx(found["worst"]["MixedNUTS"], abs=0.005)
    clean = resnet_mixes.transferred()["clean"]
    assert clean[0.5] > clean[0.0]
    some = found[found.index.str.startswith("weight")].set_index("weight")["natural"]
    assert (clean - some).abs().max() < 3 * np.sqrt(0.25 / 1000)  # the tables of 1,000 images agree
    missed = [name for name, aim in resnet_mixes.aims().items() if not aim.holds]
    assert len(missed) == 7
    assert any("margin of h" in name for name in resnet_mixes.aims())
    assert not any("margin" in name or "lot" in name for name in missed)
    groups = margin_groups(pd.read_csv(mixing.MIXING / "margins.csv"))
    small = groups["h, attacked and right"].mean() - groups["h, clean and wrong"].mean()
    assert small < 0.2  # the small h misses that aim


def test_the_words_on_denoised_smoothing_hold() -> None:
    above, errors = {}, {}
    for sigma in denoised.SIGMAS:
        gone = denoised.apart(sigma, "fine-tuned", "expert")
        assert len(gone) == 500
        assert (gone.index % 20 == 0).all()
        radii = gone[denoised.AT]
        used = [r for r in radii if denoised.reached(sigma, "expert")[r].any()]
        above |= {(sigma, r): radii[r].mean() for r in used if radii[r].mean() >= 0}
        errors[sigma] = gone["acr"].mean() / gone["acr"].sem()
        gained = denoised.apart(sigma, "fine-tuned", "off the shelf")
        assert len(gained) == 250
        assert gained["0"].mean() > 3 * gained["0"].sem()
    assert list(above) == [(0.5, "1.5")]
    only = denoised.apart(0.5, "fine-tuned", "expert")["1.5"]
    assert abs(only.mean()) < only.sem()
    assert max(errors.values()) < -2
    board = pd.read_csv(denoised.DENOISED / "board.csv", index_col="network")
    for kind in ("off the shelf", "fine-tuned"):
        claims = denoised.reached(1.0, kind).mean()
        wanted = board.loc[f"σ = 1, {kind}, two bounds", list(claims.index)]
        assert claims.to_numpy() == pytest.approx(wanted.to_numpy(dtype=float), abs=1e-6)


def test_the_words_on_photographs_hold() -> None:
    board, single = photographs.read_board(), [f"σ = {s:g}, two bounds" for s in imagenet.SIGMAS]
    at = [f"{r:g}" for r in imagenet.RADII]
    assert board.loc[single[0], "0"] > board.loc[single[1], "0"]  # the greater σ is the weaker at 0
    assert (board.loc["cascade, routed", at] <= board.loc[single, at].max()).all()
    assert len(photographs.tables()[imagenet.SIGMAS[0]]) == 20
    for sigma, table in photographs.tables().items():
        share = certified_accuracy(table, imagenet.RADII)
        assert np.allclose(share, board.loc[f"σ = {sigma:g}, two bounds", at].to_numpy(dtype=float))
        assert (table["n"] == imagenet.FULL.n).all()
    sampled = text.read_info(photographs.PHOTOGRAPHS / imagenet.table_name(imagenet.SIGMAS[0], 300))
    steps = {"dtype": "float32", "fold": True, "compile": True}
    assert steps.items() <= sampled["identity"]["fast"].items()
    assert "int8" not in sampled["identity"]["fast"]
    assert [*pd.read_csv(photographs.PHOTOGRAPHS / "cost.csv")["arm"]] == ["float32, as it is", "+ compiled"]

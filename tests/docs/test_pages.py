"""What the pages say in numbers and in words is what the tables under data/ say."""

import re
import subprocess
import sys
from glob import glob
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from scipy import stats
from torch import nn

from benchmarks.pages import __main__ as pages
from benchmarks.pages import certificates, gpu, larger, mixing, pixels, speed, text
from benchmarks.quality import RADII, SIGMAS
from dualrs_lab.__main__ import main
from dualrs_lab.data import load_images
from dualrs_lab.evidence import average_radius, certified_accuracy, read_votes, reclaimed
from dualrs_lab.mixing import mixed
from dualrs_lab.models import load_checkpoint

ROOT = Path(__file__).parents[2]
PROSE = [
    *(ROOT / part / "README.md" for part in ("", "data", "benchmarks")),
    *sorted((ROOT / "docs").glob("*.md")),
]

# Every number that is typed into a page, and why it is not read from a table.
TYPED = {
    "results": {
        "0 0.12 0.25 0.5 0.75 1 1.25 1.5": "radii and noise levels",
        "0.3 0.15": "stricter thresholds of benchmarks.quality and benchmarks.gpu.experts",
        "0.001 100,000 90 110 1.7 2019": "what Cohen et al. say of their networks and logs",
        "0.01": "the level that their logs fit",
        "2020": "Jeong and Shin",
        "1,000 100 300 0.1": "settings of trials of which only tried.csv is left",
        "4/255 7/255 8/255 4 10,000 20": "budgets, images and steps of the attacks",
        "18 80 2024": "the ResNet-18 of the paper on PART",
        "0.6 0.7 0.76 0.8 0.99 5": "weights of mixes, and a theorem",
        "0.77": "a margin in the paper on mixing",
        "75 10 2": "JPEG quality, CIFAR-10, α/2",
    },
    "speed": {
        "0.5 2 10 16 32 512": "the noise level, n/2, CIFAR-10, pixels, float32 and AVX-512",
        "110": "ResNet-110",
        "60 2026": "what the paper on dual randomized smoothing reports",
    },
}


@pytest.mark.parametrize("page", pages.PAGES)
def test_a_page_is_what_its_tables_make_of_it(page: str) -> None:
    assert (pages.DOCS / f"{page}.md").read_text() == pages.render(page), "run python -m benchmarks.pages"


@pytest.mark.parametrize("page", pages.PAGES)
def test_no_measured_number_is_typed(page: str) -> None:
    source = (pages.DOCS / f"{page}.md.in").read_text()
    typed = re.sub(r"`[^`]*`|\{[^}]*\}|\]\([^)]*\)", "", source)
    known = {number for numbers in TYPED[page] for number in numbers.split()}
    found = set(re.findall(r"\d[\d.,/]*\d|\d", typed))
    assert found == known, "read it from a table, or say above why not"


def test_a_placeholder_without_a_value_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "speed.md.in").write_text("It takes {hours} hours.\n")
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    with pytest.raises(ValueError, match=r"speed\.md\.in asks for 'hours'"):
        pages.render("speed")


@pytest.mark.parametrize("path", PROSE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_prose_has_one_width(path: Path) -> None:
    fenced = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    long = [line for line in fenced.splitlines() if len(line) > pages.WIDTH and line[0] not in "|!"]
    assert long == []


@pytest.mark.parametrize("path", PROSE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_links_lead_somewhere(path: Path) -> None:
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)]+)", path.read_text())):
        if "://" in target:
            continue
        there = path.parent / target if target else path
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{target}#{anchor}"


def test_numbers_are_written_as_measured() -> None:
    assert [text.significant(value) for value in (918.3, 0.932, 23.1, 100_100, 2.0)] == [
        "918", "0.932", "23.1", "100,100", "2",
    ]  # fmt: skip
    assert [text.significant(value, 2) for value in (3.39, 48.9, 0.932)] == ["3.4", "49", "0.93"]
    assert [text.radius(value) for value in (0.5399, np.nan)] == ["0.539", ""]
    assert text.percent(0.0345) == "3.5"


def test_parameters_are_counted_from_the_file() -> None:

    path = next((text.DATA / "cifar10_jpeg").glob("*sigma0.5_seed0.safetensors"))
    model, _ = load_checkpoint(path)
    assert text.millions(path) == f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}"


# Two bounds: the rival is known too.


def _by_hand(row: dict) -> float:
    """R = sigma/2 (Phi^-1(low) - Phi^-1(min(high, 1 - low))) with both bounds as quantiles of a beta law."""
    guess = max(read_votes(row["selection"]), key=lambda pair: (pair[1], -pair[0]))[0]
    counts, n, level = dict(read_votes(row["votes"])), row["n"], row["alpha"] / 2
    own = counts.pop(guess, 0)
    rival = max(counts.values(), default=0)
    low = stats.beta.ppf(level, own, n - own + 1) if own else 0.0
    high = stats.beta.isf(level, rival + 1, n - rival)
    reach = row["sigma"] / 2 * (stats.norm.ppf(low) - stats.norm.ppf(min(high, 1 - low)))
    return max(0.0, float(reach)) if guess == row["label"] else 0.0


@pytest.mark.parametrize("sigma", SIGMAS)
def test_radii_by_two_bounds_follow_from_the_votes(sigma: float) -> None:
    table = certificates.shipped(sigma)
    found = reclaimed(table, "two-bounds")
    wanted = [_by_hand(row) for row in table.to_dict("records")]
    np.testing.assert_allclose(found["radius"] * found["correct"], wanted, rtol=1e-6, atol=1e-9)
    assert average_radius(found) > average_radius(table)


def test_both_bounds_hold_together_at_their_level() -> None:
    """Of 4,000 seeded tables at alpha = 0.1, the radius exceeds the exact one in at most that share."""
    p, n, alpha, sigma = np.array([0.45, 0.3, 0.15, 0.1]), 200, 0.1, 1.0
    votes = np.random.default_rng(0).multinomial(n, p, 4000)
    cells = [" ".join(f"{k}:{count}" for k, count in enumerate(row) if count) for row in votes]
    rows = {
        "idx": range(4000), "label": 0, "predict": -1, "radius": 0.0, "correct": 0,
        "method": "rs", "sigma": sigma, "n0": 10, "n": n, "successes": votes[:, 0], "alpha": alpha,
        "selection": "0:10", "votes": cells,
    }  # fmt: skip
    exact = sigma / 2 * (stats.norm.ppf(p[0]) - stats.norm.ppf(p[1]))
    table = pd.DataFrame(rows)
    assert (reclaimed(table, "two-bounds")["radius"] > exact).mean() <= alpha
    generous = reclaimed(table.assign(alpha=4 * alpha), "two-bounds")["radius"]
    assert (generous > exact).mean() > alpha  # the negative control: twice the level for each bound, and more


# What the pages say in words.


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


def test_a_cascade_thinned_to_all_of_its_votes_is_the_cascade() -> None:
    found = pd.read_csv(certificates.SYSTEMS / "comparison.csv", index_col="rule")
    assert speed.thinned_cascade(1.0) == pytest.approx(found.loc["cascade, routed", "acr"], abs=1e-6)
    assert speed.thinned_cascade(0.1, seed=1) == pytest.approx(speed.thinned_cascade(0.1), abs=0.002)


# Pages that are written by hand.


def test_papers_are_those_of_the_citation_file() -> None:
    cited = {entry["title"] for entry in yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]}
    named = re.findall(r": \*([^*]+)\*", (ROOT / "docs" / "papers.md").read_text())
    assert len(named) == len(set(named))
    assert set(named) == cited


def test_the_example_with_a_network_of_yours_runs() -> None:
    page = (ROOT / "docs" / "own_data.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    scope = {"network": network, "pixels": load_images("digits", "test").batch(range(2))[0]}
    exec(code, scope)
    assert len(scope["found"]) == 2


def test_the_examples_of_the_front_door_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block after block, as a reader of the page would; in the README, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUALRS_CACHE", str(tmp_path / "cache"))
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    pixels, labels = load_images("digits", "test").batch(range(3))
    for name in "abc":
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(pixels[0, 0].numpy()).save(tmp_path / "photos" / name / "1.png")
    given = {"network": network, "images": pixels, "labels": labels, "mean": 0.3, "std": 0.3}
    given["names"] = [*"abcdefghij"]
    given["pipeline"] = SimpleNamespace(predict=lambda rows: [0] * len(rows))
    for page, count in ((ROOT / "docs" / "own_network.md", 4), (ROOT / "README.md", 1)):
        blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
        assert len(blocks) >= count
        assert all(len(block.strip().splitlines()) <= 10 for block in blocks)
        (tmp_path / "mine.tsv").unlink(missing_ok=True)
        scope = dict(given)
        for block in blocks:
            exec(re.sub(r"(?<!n0)(\bseed=)", r"n=100, \1", block), scope)
        assert len(scope["table"]) == 3


@pytest.mark.parametrize("path", PROSE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_options_in_the_pages_exist(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    plain = "".join(block for language, block in blocks if not language)
    for command in re.findall(r"^dualrs-lab \w.*(?:\n .*)*", plain, flags=re.MULTILINE):
        name = command.split()[1]
        if name == "lab":  # its options are those of JupyterLab
            continue
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        known = capsys.readouterr().out
        for option in re.findall(r"(?<=[\s\[|])--?[a-z][\w-]*", command):
            assert re.search(rf"(?<![\w-]){option}\b", known), f"{name} {option}"


def test_commands_on_shipped_tables_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "command_line.md").read_text()
    lines = [line for line in page.splitlines() if re.match(r"dualrs-lab \w+ .*data/", line)]
    assert len(lines) == 4
    monkeypatch.chdir(ROOT)
    for line in lines:
        words = [name for word in line.split()[1:] for name in (sorted(glob(word)) or [word])]
        out = [str(tmp_path / word) if words[i - 1] == "--out" else word for i, word in enumerate(words)]
        assert main(out) == 0


def test_the_picture_is_drawn_from_what_is_shipped(tmp_path: Path) -> None:
    script = ROOT / "docs" / "make_pictures.py"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], check=True, cwd=tmp_path)
    for path in (tmp_path / "workbench.png", ROOT / "docs" / "workbench.png"):
        with Image.open(path) as picture:
            assert picture.width > 1500
        assert path.stat().st_size < 300_000

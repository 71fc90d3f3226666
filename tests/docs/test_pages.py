"""What the pages say in numbers is what the tables under data/ say; test_words.py has the words."""

import re
import subprocess
import sys
from glob import glob
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from scipy import stats
from sklearn.dummy import DummyClassifier
from torch import nn
from torchvision.models import resnet18

from benchmarks.pages import __main__ as pages
from benchmarks.pages import certificates, speed, text
from benchmarks.quality import SIGMAS
from dualrs_lab.__main__ import main
from dualrs_lab.data import load_images
from dualrs_lab.evidence import average_radius, read_votes, reclaimed
from dualrs_lab.headless import Request, make_plan
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
        "2020 2023 2025": "Jeong and Shin, Salman et al.; Jeong, Kim and Shin; Sun et al.",
        "1,000 100 300 0.1": "settings of trials of which only tried.csv is left",
        "4/255 7/255 8/255 4 10,000 20": "budgets, images and steps of the attacks",
        "18 80 2024": "the ResNet-18 of the paper on PART",
        "7": "an arm of PART, of 255",
        "2022 11": "Súkeník et al., Alfarra et al., Eiras et al.; a lesson",
        "3,072 64": "numbers of a CIFAR-10 image and of a digit",
        "87": "millions of parameters in the paper on dual smoothing",
        "50": "what PGD-20 leaves of a ResNet-18 after longer adversarial training",
        "0.6 0.7 0.76 0.8 0.99 5": "weights of mixes, and a theorem",
        "0.77": "a margin in the paper on mixing",
        "75 10 2": "JPEG quality, CIFAR-10, α/2",
        "85.21 38.72 83.08 41.80": "what the papers on adaptive smoothing and MixedNUTS report for CIFAR-100",
        "152 70 16": "their networks",
        "1977": "a textbook on sampling",
    },
    "speed": {
        "0.5 2 10 16 32 512": "the noise level, n/2, CIFAR-10, pixels, float32 and AVX-512",
        "110": "ResNet-110",
        "224": "the side of ImageNet as networks take it",
        "60 2026": "what the paper on dual randomized smoothing reports",
    },
    "scaling": {
        "50 100": "ResNet-50, H100",
        "256 224 154": "a batch of photographs, their side, and its megabytes as floats",
        "32 16": "float32, bfloat16",
        "20 23": "notebooks",
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


def test_a_cascade_thinned_to_all_of_its_votes_is_the_cascade() -> None:
    found = pd.read_csv(certificates.SYSTEMS / "comparison.csv", index_col="rule")
    assert speed.thinned_cascade(1.0) == pytest.approx(found.loc["cascade, routed", "acr"], abs=1e-6)
    assert speed.thinned_cascade(0.1, seed=1) == pytest.approx(speed.thinned_cascade(0.1), abs=0.002)


# Pages that are written by hand.


def test_papers_are_those_of_the_citation_file() -> None:
    cited = {entry["title"] for entry in yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]}
    titles = re.findall(r": \*([^*]+)\*", (ROOT / "docs" / "papers.md").read_text())
    named = [" ".join(title.split()) for title in titles]
    assert len(named) == len(set(named))
    assert set(named) == cited


def test_the_example_with_a_network_of_yours_runs() -> None:
    page = (ROOT / "docs" / "own_data.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    scope = {"network": network, "pixels": load_images("digits", "test").batch(range(2))[0]}
    exec(code, scope)
    assert len(scope["found"]) == 2


def test_the_sources_of_networks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "own_network.md").read_text()
    (section,) = re.findall(
        r"^## Where a network may come from\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE
    )
    blocks = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert len(blocks) == 3
    assert max(len(block.splitlines()) for block in blocks) <= 10
    monkeypatch.chdir(tmp_path)
    kept = resnet18(weights=None, num_classes=3).eval()
    torch.save(kept.state_dict(), "resnet18.pt")
    save_file(kept.state_dict(), "resnet18.safetensors")
    scope = {
        "pipeline": DummyClassifier(strategy="constant", constant=4).fit(np.zeros((10, 64)), np.arange(10))
    }
    for block in blocks:
        exec(block, scope)
    x, grey = torch.rand(2, 3, 64, 64), torch.rand(2, 1, 8, 8)
    assert torch.equal(scope["network"](x), scope["same"](x))
    assert scope["box"](grey).argmax(1).tolist() == scope["by_rows"](grey).argmax(1).tolist() == [4, 4]
    assert scope["remote"].classes == 10


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
    given["ask_somebody"] = lambda x: ["a"] * len(x)
    for page, count in ((ROOT / "docs" / "own_network.md", 4), (ROOT / "README.md", 1)):
        text = re.sub(
            r"^## Where a network may come from\n.*?(?=^## )", "", page.read_text(), flags=re.DOTALL | re.M
        )
        blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
        assert len(blocks) >= count
        assert all(len(block.strip().splitlines()) <= 10 for block in blocks)
        (tmp_path / "mine.tsv").unlink(missing_ok=True)
        scope = dict(given)
        for block in blocks:
            exec(re.sub(r"(sigma=[\d.]+, )seed=", r"\1n=100, seed=", block), scope)
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


def test_the_sweep_of_the_page_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "command_line.md").read_text()
    (sweep,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "s.toml").write_text(sweep)
    request = Request(folder=ROOT / "notebooks", out=tmp_path / "runs", sweep=tmp_path / "s.toml")
    trained = [run for run in make_plan(request) if run.notebook.stem == "20_train"]
    assert len(trained) == 3 * 2 * 2 * 2
    assert "here 3 · 2 · 2 · 2 points" in page
    assert {(run.given.get("epochs"), run.parameters["model"]) for run in trained} == {
        (epochs, model) for epochs in (10, 20) for model in ("digits_narrow", "digits_cnn")
    }


def test_commands_on_shipped_tables_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "command_line.md").read_text()
    lines = [line for line in page.splitlines() if re.match(r"(dualrs-lab \w+|python) .*data/.*\.tsv", line)]
    assert len(lines) == 6
    monkeypatch.chdir(ROOT)
    for line in lines:
        program, *words = [name for word in line.split() for name in (sorted(glob(word)) or [word])]
        if program == "python":
            subprocess.run([sys.executable, *words], check=True)
            continue
        out = [str(tmp_path / word) if words[i - 1] == "--out" else word for i, word in enumerate(words)]
        assert main(out) == 0


def test_the_picture_is_drawn_from_what_is_shipped(tmp_path: Path) -> None:
    script = ROOT / "docs" / "make_pictures.py"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], check=True, cwd=tmp_path)
    for path in (tmp_path / "workbench.png", ROOT / "docs" / "workbench.png"):
        with Image.open(path) as picture:
            assert picture.width > 1500
        assert path.stat().st_size < 300_000

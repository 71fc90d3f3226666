"""One run of draws serves every confidence: by one, it counts what a run with that one alone counts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from dualrs_lab.combine import read_image_votes
from dualrs_lab.data import Images, load_images
from dualrs_lab.evidence import (
    Certificate,
    at_confidence,
    confidences_of,
    origin,
    read_votes,
    sure_votes,
    vote_counts,
)
from dualrs_lab.models import Graded
from dualrs_lab.smoothing import AtRadii, FastPath, GridNoise, Spec, certify_table, image_votes
from tests.smoothing.test_smoothed_attacks import ridge

SIGMA, CONFIDENCES = 0.25, (0.3, 0.5, 0.7)
Made = Callable[..., pd.DataFrame]


class Sharp(nn.Module):
    """A linear classifier of digits with logits that are worth a softmax; with `silent` in (C + 1) outputs.

    There, a sixth way to the same votes: the last output is the largest where no class has this probability.
    """

    def __init__(self, silent: float = 0.0) -> None:
        super().__init__()
        train = load_images("digits", "train")
        self.inner, self.silent = ridge(train, train.labels, SIGMA), silent

    def forward(self, x: Tensor) -> Tensor:
        logits = 0.7 * self.inner(x)
        if not self.silent:
            return logits
        p = torch.softmax(logits, 1)
        return torch.cat([p, torch.where(p.amax(1) < self.silent, 2.0, -1.0)[:, None]], 1)


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "test").select(range(25))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits: Images) -> Made:
    """Tables of `Sharp`, graded or not, in float32 and by the same draws."""
    folder, network = tmp_path_factory.mktemp("graded"), Sharp().eval()

    def make(name: str, confidences: tuple[float, ...] = (), **changes) -> pd.DataFrame:
        spec = Spec(**{"noise": GridNoise(SIGMA), "seed": 0, "n0": 60, "n": 500} | changes)
        model = Graded(network, confidences) if confidences else network
        return certify_table(model, digits, folder / f"{name}.tsv", spec=spec, progress=False)

    make("graded", CONFIDENCES)
    return make


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a.drop(columns="time"), b.drop(columns="time"))


def test_by_one_confidence_it_is_the_run_with_that_one_alone_vote_for_vote(made: Made) -> None:
    table = made("graded", CONFIDENCES)
    assert confidences_of(table) == CONFIDENCES
    assert origin(table)["sure"] == {"confidences": [*CONFIDENCES], "answers": 10}
    for number, confidence in enumerate(CONFIDENCES):
        found = at_confidence(table, confidence)
        same(found, at_confidence(made(f"alone{number}", (confidence,)), confidence))
        assert origin(found)["sure"] == {"confidence": confidence, "answers": 10}
        assert [Certificate.from_row(row).recomputed() for row in found.to_dict("records")] == found[
            "radius"
        ].tolist()
    same(at_confidence(table, 0), made("plain"))
    assert "sure" not in origin(made("plain"))


def test_the_votes_are_those_of_a_network_with_an_output_for_silence(made: Made, digits: Images) -> None:
    """Counted apart from `Graded`, by the engine of another number of classes."""
    from dualrs_lab.smoothing import NoiseBlocks, count_votes

    noise, device = GridNoise(SIGMA), torch.device("cpu")
    blocks = NoiseBlocks(noise, digits.shape, seed=0, stream="estimation", device=device)
    x, _ = digits.batch(torch.arange(len(digits)))
    found = at_confidence(made("graded", CONFIDENCES), 0.5)
    votes = vote_counts([read_votes(cell) for cell in found["votes"]], 11)
    want = count_votes(Sharp(0.5).eval(), x, blocks, n=500, classes=11)
    assert votes[:, 10].sum() > 500
    assert (votes == want).all()


def test_what_stopped_early_is_claimed_by_its_bound_at_any_confidence(made: Made) -> None:
    table = made("early", CONFIDENCES, stop=AtRadii(radii=(0.1,)))
    found = at_confidence(table, 0.3)
    assert {*found["bound"]} == {"betting"}
    assert found["n"].tolist() == table["n"].tolist()
    assert [Certificate.from_row(row).recomputed() for row in found.to_dict("records")] == found[
        "radius"
    ].tolist()


def test_a_table_with_other_confidences_does_not_go_on(made: Made) -> None:
    with pytest.raises(ValueError, match=r"other settings \(model, sure\)"):
        made("graded", (0.3, 0.5))
    with pytest.raises(ValueError, match=r"other settings \(model, sure\)"):
        made("graded")


def test_pairs_of_an_original_are_refused(made: Made) -> None:
    with pytest.raises(ValueError, match="wanted certify='copy', as pairs are about one guess"):
        made("original", CONFIDENCES, certify="original")
    table = made("graded", CONFIDENCES)
    with pytest.raises(ValueError, match="at_confidence: the table certifies the original"):
        at_confidence(table.assign(paired=100), 0.3)


def test_unknown_confidences_and_tables_are_refused_with_what_there_is(made: Made) -> None:
    table = made("graded", CONFIDENCES)
    with pytest.raises(ValueError, match=r"got confidence 0.4; votes are told apart by 0.3, 0.5, 0.7"):
        at_confidence(table, 0.4)
    with pytest.raises(ValueError, match="record says of confidences: nothing; wanted one as"):
        at_confidence(made("plain"), 0.3)
    with pytest.raises(ValueError, match=r"says of confidences: \{'confidence': 0.3, 'answers': 10\}"):
        at_confidence(at_confidence(table, 0.3), 0.3)
    with pytest.raises(ValueError, match="wanted votes for classes below 40"):
        at_confidence(table.assign(votes="3:460 40:40"), 0.3)


def test_counts_by_hand() -> None:
    counts = np.array([[5, 1, 2, 0, 0, 3, 1, 0]])  # two classes; three confidences
    assert sure_votes(counts, CONFIDENCES, 0).tolist() == [[8, 4, 0]]
    assert sure_votes(counts, CONFIDENCES, 0.3).tolist() == [[7, 4, 1]]
    assert sure_votes(counts, CONFIDENCES, 0.5).tolist() == [[7, 1, 4]]
    assert sure_votes(counts, CONFIDENCES, 0.7).tolist() == [[5, 1, 6]]
    assert sure_votes(counts, (), 0).shape == (1, 9)
    with pytest.raises(ValueError, match=r"sure_votes: got counts \(1, 8\) and 2 confidences"):
        sure_votes(counts, (0.3, 0.5), 0)
    with pytest.raises(ValueError, match=r"sure_votes: got confidence 0\.6"):
        sure_votes(counts, CONFIDENCES, 0.6)


def test_votes_about_training_images_are_kept_by_confidence(tmp_path: Path, digits: Images) -> None:
    network, path = Sharp().eval(), tmp_path / "votes.safetensors"
    how = {"sigmas": (0.25, 0.5), "n": 60, "seed": 3, "fast": FastPath.plain(), "progress": False}
    found = image_votes([Graded(network, CONFIDENCES)] * 2, digits, path, **how)
    plain = image_votes([network] * 2, digits, tmp_path / "plain.safetensors", **how)
    counts, labels, about = read_image_votes(path, (0.5, 0.25))
    assert counts.shape == (len(digits), 2, 40)
    assert about["sure"] == {"confidences": [*CONFIDENCES], "answers": 10}
    every = sure_votes(counts, CONFIDENCES, 0)[..., :10]
    assert (every[:, ::-1] == plain["counts"].numpy()).all()
    assert (labels == digits.labels.numpy()).all()
    own = np.take_along_axis(sure_votes(counts, CONFIDENCES, 0.7), labels[:, None, None], axis=2)[..., 0]
    assert (own[:, ::-1] == found["votes"].numpy()).all()
    with pytest.raises(ValueError, match=r"other settings \(experts, sure\)"):
        image_votes([Graded(network, (0.3,))] * 2, digits, path, **how)
    with pytest.raises(ValueError, match="wanted the same for each"):
        image_votes([Graded(network, (0.3,)), network], digits, tmp_path / "b.safetensors", **how)

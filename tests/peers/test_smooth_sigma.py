"""A level that changes slowly with the image: what it is, its certificates, and their tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dualrs_lab.data import Images
from dualrs_lab.evidence import ABSTAIN, Certificate, decide, frame, read_table, write_table
from dualrs_lab.peers import (
    SmoothSigma,
    SmoothSigmaCertificate,
    certify_smooth_table,
    fit_smooth_sigma,
    neighbour_distances,
    pixel_rows,
    smooth_sigma_radius,
)
from dualrs_lab.smoothing import FastPath, GaussianNoise, GridNoise, Spec, certify, certify_table, freeze

SMOOTH = SmoothSigma(base=0.5, rate=0.1, centre=3.0, k=3)


def some(count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 1, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.randint(2, (count,), generator=generator)
    return Images(pixels=pixels, labels=labels, classes=("dark", "light"), name="toy", split="test")


class Light(nn.Module):
    """Whether the mean pixel is above a half: its smoothed probabilities are known."""

    def __init__(self) -> None:
        super().__init__()
        self.steep = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        over = self.steep * (x.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-over, over], dim=1)


def test_distances_are_those_by_hand_and_change_no_faster_than_the_image() -> None:
    rng = np.random.default_rng(0)
    train, images = (rng.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8) for count in (40, 6))
    found = neighbour_distances(images, train, k=5)
    gaps = np.linalg.norm((images[:, None].astype(float) - train[None]).reshape(6, 40, -1) / 255, axis=2)
    assert found == pytest.approx(np.sort(gaps, axis=1)[:, :5].mean(axis=1), rel=1e-12)
    moved = np.clip(images.astype(int) + rng.integers(-9, 10, images.shape), 0, 255).astype(np.uint8)
    step = np.linalg.norm((images.astype(float) - moved).reshape(6, -1) / 255, axis=1)
    change = np.log(
        SMOOTH.at(neighbour_distances(moved, train, k=3)) / SMOOTH.at(neighbour_distances(images, train, k=3))
    )
    assert (np.abs(change) <= SMOOTH.rate * step + 1e-12).all()
    own = neighbour_distances(train[:2], train, k=5, left_out=True)
    assert own == pytest.approx(neighbour_distances(train[:2], train[2:], k=5), rel=0.3)
    assert (own > neighbour_distances(train[:2], train, k=5)).all()  # which count themselves as neighbours


def test_wrong_images_and_levels_are_refused() -> None:
    few = np.zeros((3, 4), dtype=np.uint8)
    with pytest.raises(ValueError, match="with k 4; wanted uint8 images of one shape, and 4 or more"):
        neighbour_distances(few, few, k=4)
    with pytest.raises(ValueError, match="got float64"):
        neighbour_distances(few / 255, few, k=2)
    with pytest.raises(ValueError, match="rate >= 0"):
        SmoothSigma(base=0.5, rate=-0.1, centre=1.0)


def certificate(distance: float = 2.5) -> SmoothSigmaCertificate:
    sigma = float(SMOOTH.at(distance))
    known = {"idx": 4, "label": 1, "alpha": 0.001, "seed": 0, "seconds": 0.1, "rule": "two-bounds"}
    plain = decide([10, 90], [500, 9500], sigma=sigma, **known)
    return SmoothSigmaCertificate.under(plain, SMOOTH, distance, 16)


def test_a_certificate_comes_back_from_its_row_and_claims_no_more_than_plain_smoothing() -> None:
    one = certificate()
    assert SmoothSigmaCertificate.from_row(one.to_row()) == one
    plain = Certificate.from_row({**one.to_row(), "method": "rs"})
    assert 0 < one.radius < plain.recomputed()
    with pytest.raises(ValueError, match="at most the radius"):
        replace(one, radius=plain.recomputed())
    with pytest.raises(ValueError, match="of its distance"):
        replace(one, distance=2.9)


@pytest.mark.parametrize("column", ["radius", "sigma", "distance", "rate", "dims"])
def test_a_table_that_was_edited_is_refused(tmp_path: Path, column: str) -> None:
    table, path = frame([certificate(), replace(certificate(3.5), idx=5)]), tmp_path / "smooth.tsv"
    write_table(path, table)
    assert read_table(path).equals(table)
    forged = {"radius": 1.01, "sigma": 1.02, "distance": 0.9, "rate": 0.5, "dims": 2}[column]
    write_table(path, table.assign(**{column: (table[column] * forged).astype(table[column].dtype)}))
    with pytest.raises(ValueError, match=r"image 4 \(line 2\) has (radius|sigma)"):
        read_table(path)


SPEC = Spec(noise=GridNoise(0.5), seed=0, n=300, rule="two-bounds")


def test_votes_are_those_under_the_level_of_each_image(tmp_path: Path) -> None:
    images, train, model = some(6, 0), some(60, 1), Light()
    smooth = fit_smooth_sigma(train, base=0.5, rate=0.3, k=5)
    found = certify_smooth_table(
        model, images, train, tmp_path / "s.tsv", spec=SPEC, smooth=smooth, progress=False
    )
    distances = neighbour_distances(pixel_rows(images), pixel_rows(train), k=5)
    for i, row in enumerate(found.to_dict("records")):
        noise = GridNoise(float(smooth.at(distances[i])))
        (alone,) = certify(model.eval(), images.pixels[i : i + 1], classes=2, spec=replace(SPEC, noise=noise))
        assert (row["votes"], row["sigma"]) == (frame([alone])["votes"][0], noise.sigma)
        assert row["radius"] <= alone.radius
        assert alone.radius == 0 or row["predict"] in (alone.predict, ABSTAIN)
    assert found["sigma"].nunique() == 6
    assert found["sigma"].between(0.3, 0.8).all()


def test_a_rate_of_0_is_plain_smoothing_and_a_begun_table_goes_on(tmp_path: Path) -> None:
    images, train, model = some(6, 0), some(60, 1), Light()
    still = SmoothSigma(base=0.5, rate=0.0, centre=1.0, k=5)
    how = {"spec": SPEC, "progress": False}
    plain = certify_table(model, images, tmp_path / "plain.tsv", **how)
    certify_smooth_table(model, images, train, tmp_path / "s.tsv", smooth=still, max_images=2, **how)
    found = certify_smooth_table(model, images, train, tmp_path / "s.tsv", smooth=still, **how)
    assert found[["idx", "votes", "radius", "predict"]].equals(plain[["idx", "votes", "radius", "predict"]])
    with pytest.raises(ValueError, match="rate"):
        certify_smooth_table(model, images, train, tmp_path / "s.tsv", smooth=replace(still, rate=0.1), **how)


def test_a_frozen_network_goes_under_another_level_but_not_another_kind() -> None:
    voter = freeze(
        Light(),
        GridNoise(0.5),
        (1, 4, 4),
        classes=2,
        device=torch.device("cpu"),
        dtype=torch.float32,
        fast=FastPath(),
    )
    other = voter.under(GridNoise(0.4))
    assert (voter.noise.sigma, other.noise.sigma) == (0.5, 0.4)
    with pytest.raises(ValueError, match="wanted another level of GridNoise"):
        voter.under(GaussianNoise(0.4))


def test_another_base_and_other_shapes_are_refused(tmp_path: Path) -> None:
    images = some(3, 0)
    with pytest.raises(ValueError, match=r"sigma 0.5 with base 0.25"):
        certify_smooth_table(
            Light(), images, images, tmp_path / "s.tsv", spec=SPEC, smooth=replace(SMOOTH, base=0.25)
        )
    assert not [*tmp_path.iterdir()]


def test_the_claim_holds_for_a_half_space_at_every_level_it_may_have() -> None:
    # Light is a half-space: P under sigma is Phi(t / sigma), t its distance to the border. Within the radius
    # it stays above 1/2 by far; the ball classifiers of test_smooth_sigma_radii are the worst.
    for t in (0.1, 0.5, 1.5):
        p = 0.5 * (1 + torch.erf(torch.tensor(t / 0.5 / 2**0.5, dtype=torch.float64)).item())
        assert smooth_sigma_radius(p, 1 - p, 0.5, 0.05, 16) < t

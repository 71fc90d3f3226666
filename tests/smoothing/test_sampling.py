"""The engine draws the right noise, counts every vote, and gives an image the same votes in any company."""

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from dualrs_lab.models import make_model
from dualrs_lab.smoothing import (
    BLOCK,
    GaussianNoise,
    GridNoise,
    NoiseBlocks,
    Voter,
    count_votes,
    evaluation_copy,
    sample,
)
from dualrs_lab.smoothing.noise import _grid_tables

SHAPE = (3, 8, 8)


def blocks(noise=None, *, shape=SHAPE, seed=0, stream="estimation", **settings):
    return NoiseBlocks(noise or GridNoise(0.25), shape, seed=seed, stream=stream, **settings)


def network(seed: int = 0) -> torch.nn.Module:
    return make_model(
        "digits_narrow", classes=5, channels=3, mean=[0.5] * 3, std=[0.25] * 3, seed=seed
    ).eval()


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        256, (count, *SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


@pytest.mark.parametrize("sigma", [0.01, 0.25, 1.0, 3.0])
def test_grid_thresholds_are_exact_to_sixty_bits(sigma: float) -> None:
    _, thresholds, lowest = _grid_tables(sigma)
    assert (thresholds.diff() >= 0).all()
    with mpmath.workprec(200):
        for k in range(0, len(thresholds), max(1, len(thresholds) // 50)):
            step = k + int(lowest)  # thresholds[k] is the upper end of this step
            exact = mpmath.ncdf(mpmath.mpf(2 * step + 1) / (510 * mpmath.mpf(sigma)))
            assert int(thresholds[k]) == int(mpmath.floor(exact * 2**60)), (sigma, step)


@pytest.mark.parametrize("sigma", [0.002, 0.25, 1.0])
def test_grid_noise_has_the_law_of_rounded_gaussian(sigma: float) -> None:
    # Seeded; a correct sampler fails a chi-square test at 1e-6 once in a million seeds.
    steps = GridNoise(sigma).draw((200_000,), torch.Generator().manual_seed(1)).numpy().astype(int)
    assert chi_square_p(steps, sigma) > 1e-6


def test_grid_noise_law_test_catches_a_sigma_that_is_off_by_three_percent() -> None:
    steps = GridNoise(0.2575).draw((200_000,), torch.Generator().manual_seed(1)).numpy().astype(int)
    assert chi_square_p(steps, 0.25) < 1e-6


def test_grid_noise_law_test_catches_truncation_towards_zero() -> None:
    rng = np.random.default_rng(0)
    assert chi_square_p(np.trunc(255 * 0.25 * rng.standard_normal(200_000)).astype(int), 0.25) < 1e-6


def chi_square_p(steps: np.ndarray, sigma: float) -> float:
    edges = np.unique(np.rint(255 * sigma * stats.norm.ppf(np.linspace(0.002, 0.998, 80)))) + 0.5
    expected = np.diff(stats.norm.cdf(np.concatenate([[-np.inf], edges / (255 * sigma), [np.inf]])))
    observed = np.bincount(np.searchsorted(edges, steps), minlength=len(expected))
    keep = expected > 1e-9
    return float(
        stats.chisquare(observed[keep], expected[keep] / expected[keep].sum() * observed[keep].sum()).pvalue
    )


def test_noisy_image_is_a_function_of_the_grid_point_alone() -> None:
    # The sum enters as an integer: two (pixel, step) pairs with equal sums give the same float, in any dtype.
    x = torch.tensor([[[10]], [[200]]], dtype=torch.uint8)
    steps = torch.tensor([[[300]], [[110]]], dtype=torch.int16)
    for dtype in (torch.float32, torch.bfloat16):
        noisy = GridNoise(0.5).add(x, steps, dtype)
        assert noisy[0].item() == noisy[1].item() == torch.tensor(310 / 255).to(dtype).item()


def test_gaussian_noise_is_added_to_pixels_in_their_unit() -> None:
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 256)
    noise = torch.tensor([[[0.0], [0.25]]])
    for pixels in (x, x.float() / 255):
        noisy = GaussianNoise(0.5).add(pixels, noise, torch.float32)
        assert torch.equal(noisy, torch.arange(256) / 255 + noise)


def test_votes_are_complete_and_follow_the_seed_and_the_stream() -> None:
    x, model = pixels(3), network()
    votes = count_votes(model, x, blocks(), n=250, classes=5)
    assert votes.shape == (3, 5)
    assert votes.sum(1).tolist() == [250] * 3
    assert (votes == count_votes(model, x, blocks(), n=250, classes=5)).all()
    assert (votes != count_votes(model, x, blocks(seed=1), n=250, classes=5)).any()
    assert (votes != count_votes(model, x, blocks(stream="selection"), n=250, classes=5)).any()


def test_streams_and_blocks_are_different_draws() -> None:
    drawn = [blocks()[0], blocks()[1], blocks(stream="selection")[0], blocks(seed=1)[0]]
    for i, first in enumerate(drawn):
        for second in drawn[:i]:
            correlation = np.corrcoef(first.flatten().numpy(), second.flatten().numpy())[0, 1]
            assert abs(correlation) < 5 / np.sqrt(first.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_image_gets_the_same_votes_alone_in_company_and_at_any_batch_size(dtype: torch.dtype) -> None:
    x = pixels(13)
    model = evaluation_copy(network(), SHAPE, device=torch.device("cpu"), dtype=dtype)
    reference = count_votes(model, x, blocks(), n=330, classes=5, batch=1000, dtype=dtype)
    for batch in (1, BLOCK, 3 * BLOCK, 5000):
        assert (
            count_votes(model, x, blocks(), n=330, classes=5, batch=batch, dtype=dtype) == reference
        ).all()
    for i in (0, 5, 12):
        assert (
            count_votes(model, x[i : i + 1], blocks(), n=330, classes=5, dtype=dtype) == reference[i]
        ).all()


def test_a_photograph_gets_the_same_votes_in_bfloat16_alone_and_in_company() -> None:
    model = make_model("fast_narrow", classes=10, channels=3, mean=[0.5] * 3, std=[0.25] * 3, seed=0)
    model = evaluation_copy(model, (3, 32, 32), device=torch.device("cpu"), dtype=torch.bfloat16)
    x = torch.randint(256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    noise = blocks(shape=(3, 32, 32))
    together = count_votes(model, x, noise, n=130, classes=10, batch=300, dtype=torch.bfloat16)
    for i in range(3):
        alone = count_votes(model, x[i : i + 1], noise, n=130, classes=10, dtype=torch.bfloat16)
        assert (alone == together[i]).all()


def test_blocks_that_are_not_kept_are_drawn_again_alike() -> None:
    kept, drawn = blocks(), blocks(keep_bytes=0)
    first, again = [[some[number] for number in range(9)] for some in (kept, drawn)], drawn[3]
    assert kept[3] is first[0][3]
    assert again is not first[1][3]
    assert torch.equal(again, kept[3])


@pytest.mark.parametrize("room", [0, 2, 7])
def test_noise_that_is_kept_does_not_grow_with_the_number_of_draws(room: int) -> None:
    size = BLOCK * 3 * 8 * 8 * 2
    limited = blocks(keep_bytes=room * size)
    for number in range(50):
        limited[number]
    held = {*limited._kept.values(), *limited._recent.values()}
    assert len(limited._kept) == room
    assert len(held) <= room + 4


class Counted(NoiseBlocks):
    drawn = 0

    def __getitem__(self, number: int) -> torch.Tensor:
        self.drawn += number not in self._kept and number not in self._recent
        return super().__getitem__(number)


def test_images_side_by_side_draw_a_block_once_even_where_none_is_kept() -> None:
    noise = Counted(GridNoise(0.25), SHAPE, seed=0, stream="estimation", keep_bytes=0)
    list(sample(Watched(), pixels(16), noise, draws=3000))
    assert noise.drawn == 30


def test_half_space_votes_match_their_closed_form() -> None:
    # P[x1 + sigma Z > 0.5]; n = 40,000 and |z| < 5: a right engine fails with probability < 1e-6.
    x = torch.tensor([[0.45, 0.1], [0.5, 0.7], [0.8, 0.2]])
    votes = count_votes(half_space, x, blocks(GaussianNoise(0.3), shape=(2,)), n=40_000, classes=2)
    p = stats.norm.cdf((x[:, 0].numpy() - 0.5) / 0.3)
    assert (np.abs(votes[:, 1] / 40_000 - p) < 5 * np.sqrt(p * (1 - p) / 40_000)).all()


def half_space(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([0.5 - x[:, 0], x[:, 0] - 0.5], dim=1)


def test_errors_say_what_came_and_what_to_do() -> None:
    x = pixels(2)
    with pytest.raises(ValueError, match="GaussianNoise for floats"):
        count_votes(network(), x.float(), blocks(), n=10, classes=5)
    with pytest.raises(ValueError, match=r"the noise has shape \(N, 1, 8, 8\)"):
        count_votes(network(), x, blocks(shape=(1, 8, 8)), n=10, classes=5)
    with pytest.raises(ValueError, match="logits"):
        count_votes(network(), x, blocks(), n=10, classes=7)
    with pytest.raises(ValueError, match="n = 0"):
        count_votes(network(), x, blocks(), n=0, classes=5)
    with pytest.raises(FloatingPointError, match="NaN"):
        count_votes(lambda z: torch.full((len(z), 5), torch.nan), x, blocks(), n=10, classes=5)
    with pytest.raises(ValueError, match="sigma 0"):
        GridNoise(0)


class Watched(Voter):
    """Remembers how full its passes were."""

    def __init__(self, **settings) -> None:
        super().__init__(network(), GridNoise(0.25), classes=5, units=4, **settings)
        self.sizes: list[int] = []

    def __call__(self, x, noise):
        self.sizes.append(len(x))
        return super().__call__(x, noise)


def collect(voter: Voter, x: torch.Tensor, **settings) -> dict[int, np.ndarray]:
    found = [item for group in sample(voter, x, blocks(), **settings) for item in group]
    assert len({item.position for item in found}) == len(found)
    assert all(item.seconds > 0 for item in found)
    return {item.position: item.counts for item in found}


def alone(x: torch.Tensor, position: int, n: int) -> np.ndarray:
    return count_votes(network(), x[position : position + 1], blocks(), n=n, classes=5)[0]


def leave_early(positions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return counts.sum(axis=1) >= 100 * (1 + positions % 5)


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("padded", [False, True])
def test_images_that_leave_early_get_the_votes_of_their_first_draws(ahead: int, padded: bool) -> None:
    x = pixels(11)
    counts = collect(Watched(padded=padded), x, draws=1000, done=leave_early, ahead=ahead)
    assert sorted(counts) == list(range(11))
    for position, votes in counts.items():
        assert (votes == alone(x, position, 100 * (1 + position % 5))).all()


def test_every_image_may_have_its_own_number_of_draws() -> None:
    x, draws = pixels(6), [30, 250, 100, 1, 470, 200]
    counts = collect(Watched(), x, draws=draws)
    for position, votes in counts.items():
        assert votes.sum() == draws[position]
        assert (votes == alone(x, position, draws[position])).all()


def test_passes_stay_full_while_images_leave_early() -> None:
    voter = Watched()
    collect(voter, pixels(23), draws=700, done=leave_early)
    needed = sum(1 + position % 5 for position in range(23))
    assert set(voter.sizes[:-4]) == {4}
    # At the end three images' places are filled with blocks that may come too late to count.
    assert sum(voter.sizes) <= needed + 3 * 4


def test_done_sees_each_image_once_a_call_and_block_by_block() -> None:
    seen: dict[int, list[int]] = {}

    def watch(positions: np.ndarray, counts: np.ndarray) -> np.ndarray:
        assert len(set(positions.tolist())) == len(positions)
        for position, total in zip(positions.tolist(), counts.sum(axis=1).tolist(), strict=True):
            seen.setdefault(position, []).append(total)
        return np.zeros(len(positions), dtype=bool)

    collect(Watched(), pixels(2), draws=550, done=watch)
    assert seen == {0: [100, 200, 300, 400, 500, 550], 1: [100, 200, 300, 400, 500, 550]}


def test_no_inputs_no_votes() -> None:
    assert collect(Watched(), pixels(0), draws=100) == {}

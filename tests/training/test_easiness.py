"""Which images are worth training on: counted, weighted, drawn, the same after a kill; recipes by name."""

from pathlib import Path

import pytest
import torch
from scipy import stats

from dualrs_lab.data import Images, load_images
from dualrs_lab.models import Classifier, make_model
from dualrs_lab.runtime import make_generator
from dualrs_lab.training import (
    RECIPES,
    Consistency,
    EasyImages,
    Gaussian,
    Standard,
    TrainConfig,
    count_right,
    easiness,
    for_noise,
    train,
)

CONFIG = TrainConfig(epochs=6, seed=0, batch=64, lr=0.1, crop=0, flip=False)
EASY = EasyImages(objective=Gaussian(sigma=0.25), start=2, every=2, draws=6, threshold=0.4)


def generator(seed: int = 0) -> torch.Generator:
    return make_generator(seed, "easiness")


def network() -> Classifier:
    return make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=0)


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "train").select(range(400))


def test_right_answers_are_counted_in_evaluation_mode(digits: Images) -> None:
    model = network().train()
    before = [buffer.clone() for buffer in model.buffers()]
    some = digits.select(range(40))
    how = {"sigma": 0.25, "draws": 7}
    right = count_right(model, some, **how, generator=generator())
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert torch.equal(right, count_right(model.eval(), some, **how, generator=generator()))
    assert right.min() >= 0
    assert 0 < right.max() <= 7


def test_images_are_worth_a_bound_of_their_radius_and_hopeless_ones_nothing() -> None:
    found = easiness(torch.tensor([16, 14, 12, 7, 6, 0]), 16, threshold=0.4)
    wanted = [stats.norm.ppf(stats.beta.ppf(0.1, k, 17 - k)) for k in (16, 14, 12, 12)]
    assert found.tolist() == pytest.approx([*wanted, 0.0, 0.0], rel=1e-6)


def test_where_all_are_hopeless_it_says_so() -> None:
    with pytest.raises(ValueError, match=r"no image has a share of 0\.9 right answers of 16 draws; train"):
        easiness(torch.tensor([3, 8]), 16, threshold=0.9)


class Killed(Exception):
    pass


def test_an_interrupted_run_draws_the_same_images_and_ends_in_the_same_weights(
    digits: Images, tmp_path: Path
) -> None:
    """Stopped after epoch 4, whose images were chosen before epoch 3."""
    whole = network()
    history = train(whole, digits, objective=EASY, config=CONFIG, progress=False)

    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 4:
            raise Killed

    state = tmp_path / "state.pt"
    with pytest.raises(Killed):
        train(network(), digits, objective=EASY, config=CONFIG, state=state, after=stop, progress=False)
    resumed = network()
    again = train(resumed, digits, objective=EASY, config=CONFIG, state=state, progress=False)
    assert again["loss"].tolist() == history["loss"].tolist()
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_hopeless_images_are_not_trained_on_once_images_are_chosen(
    digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first 30 images are worth anything; what the objective sees tells."""
    seen: list[torch.Tensor] = []

    class Spying(Gaussian):
        def __call__(self, model, x, y, generator):
            seen.append(x.detach().clone())
            return super().__call__(model, x, y, generator)

    wanted = (torch.arange(400) < 30).float()
    monkeypatch.setattr(EasyImages, "weigh", lambda *_, **__: wanted)
    easy = EasyImages(objective=Spying(sigma=0.25), start=1, every=5)
    train(network(), digits, objective=easy, config=CONFIG, progress=False)
    known = {image.numpy().tobytes() for image in digits.batch(torch.arange(30))[0].float() / 255}
    per_epoch = len(seen) // CONFIG.epochs
    shown = [{image.numpy().tobytes() for image in x.contiguous()} for x in seen]
    assert not set.union(*shown[:per_epoch]) <= known
    assert set.union(*shown[per_epoch:]) == known


def test_images_are_chosen_when_it_says() -> None:
    assert [epoch for epoch in range(9) if EASY.due(epoch)] == [2, 4, 6, 8]


def test_without_noise_there_is_nothing_to_choose_by() -> None:
    with pytest.raises(ValueError, match="Standard has no noise"):
        EasyImages(objective=Standard(), start=0).sigma  # noqa: B018


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0])
def test_every_recipe_trains_for_the_noise_that_was_asked_for(name: str, sigma: float) -> None:
    plain, easy = (
        for_noise(sigma, recipe=name, epochs=150),
        for_noise(sigma, recipe=f"{name}-easy", epochs=150),
    )
    assert plain.sigma == easy.sigma == sigma
    assert isinstance(easy, EasyImages)
    assert easy.objective == plain
    assert (easy.start, easy.every) == (60, 10)
    assert for_noise(0.0, recipe=name, epochs=3) == Standard()


def test_recipes_have_published_numbers() -> None:
    assert for_noise(0.5, recipe="consistency", epochs=1) == Consistency(sigma=0.5, strength=10.0)
    assert for_noise(0.25, recipe="consistency", epochs=1) == Consistency(sigma=0.25, strength=20.0)
    assert [for_noise(s, recipe="cat-rs", epochs=1).strength for s in (0.25, 0.5, 1.0)] == [0.5, 1.0, 2.0]
    assert [for_noise(s, recipe="attacked-noise", epochs=1).steps for s in (0.25, 0.5, 1.0)] == [3, 6, 4]


def test_an_unknown_recipe_is_named_with_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"for_noise: got the recipe 'best'; wanted one of gaussian, consistency, .*-easy"
    ):
        for_noise(0.5, recipe="best", epochs=1)


def test_a_strength_belongs_to_consistency_alone() -> None:
    assert for_noise(0.5, recipe="consistency", consistency=3.0) == Consistency(sigma=0.5, strength=3.0)
    with pytest.raises(ValueError, match="a strength of consistency, 3, is for the recipe consistency"):
        for_noise(0.5, recipe="macer", consistency=3.0)


def test_one_draw_of_each_image_is_enough_to_drop_the_wrong_ones() -> None:
    found = easiness(torch.tensor([0, 1, 1, 0]), 1)
    assert (found > 0).tolist() == [False, True, True, False]
    assert torch.isfinite(found).all()

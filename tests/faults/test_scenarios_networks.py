"""Networks whose certificates would be false without a word: each is judged, mended or refused before a draw.

Every scenario has its positive control: the same network without the fault is taken.
"""

import json
import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from dualrs_lab.attacks import Threat, attacked_batches, evaluate_table, robust_accuracy, vet
from dualrs_lab.attacks.pgd import PGD
from dualrs_lab.cascade import Cascade, CascadeSpec, certify_cascade, certify_cascade_table
from dualrs_lab.data import Images
from dualrs_lab.dual import Cuts, DualSpec, certify_dual, certify_dual_table, numbered
from dualrs_lab.mixing import Mix, evaluate_systems
from dualrs_lab.models import (
    Classifier,
    MadeFor,
    Normalize,
    duplicate,
    load_checkpoint,
    make_model,
    probe,
    same_answers,
    save_checkpoint,
    suited,
)
from dualrs_lab.runtime import fold_seed, make_generator
from dualrs_lab.smoothing import (
    BY_ROUNDING,
    MOST_OTHERWISE,
    FastPath,
    GaussianNoise,
    GridNoise,
    NoiseBlocks,
    Spec,
    Voter,
    certify,
    certify_table,
    check_disagreement,
    count_votes,
    disagreement,
    drawing_device,
    first_draws,
    freeze,
    label_votes,
    noise,
    note,
    predict,
    reason_to_stop,
    recorded_disagreement,
    recorded_steps,
    sample,
)
from dualrs_lab.smoothing import job as jobs
from dualrs_lab.training import Standard, TrainConfig, accuracy, new_network, train, train_checkpoint

NAMES, SHAPE, CPU = ("cat", "dog", "emu"), (1, 6, 6), torch.device("cpu")
SPEC = Spec(noise=GridNoise(0.25), seed=3, n0=20, n=100, alpha=0.01)
THREAT = Threat(eps=0.05, seed=0, steps=2, mma=False, auto=(), batch=4)


@pytest.fixture
def images() -> Images:
    pixels = torch.randint(256, (6, *SHAPE), generator=make_generator(0, "faults"), dtype=torch.uint8)
    return Images(pixels=pixels, labels=torch.arange(6) % 3, classes=NAMES, name="few", split="test")


class Body(nn.Module):
    """Convolution, BatchNorm, anything, and a last layer that class names belong to."""

    def __init__(self, *more: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3), norm or nn.BatchNorm2d(8)
        self.more, self.fc = nn.Sequential(*more), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.more(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


def network(*more: nn.Module, norm: nn.Module | None = None, seed: int = 0, mean: float = 0.5) -> Classifier:
    """Logits that differ clearly from image to image, and BatchNorm statistics that are worth having."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Classifier(Normalize([mean], [0.2]), Body(*more, norm=norm))
        with torch.no_grad():
            made.body.fc.weight.mul_(8)
            made.train()(torch.rand(64, *SHAPE))
    return made.eval()


def contents(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unharmed(model: nn.Module, before: dict[str, Tensor], *, training: bool) -> bool:
    same = all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    return same and model.training == training


def table(model: nn.Module, images: Images, path: Path, *, spec: Spec = SPEC, **more) -> str:
    certify_table(model, images, path, spec=spec, progress=False, **more)
    return path.read_text()


def record(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text())


def told(rows: list) -> list[tuple[int, float]]:
    return [(row.predict, row.radius) for row in rows]


# Every way in which a network is sampled, each with one network.


def by_voter(model: nn.Module, sigma: float = 0.25) -> Voter:
    return Voter(model, GridNoise(sigma), classes=3, units=2)


def by_dual(model: nn.Module, images: Images) -> object:
    spec = DualSpec(estimator=Cuts((0.25,)), sigmas=(0.12, 0.25), seed=0, n0=10, n=100, n_estimator=100)
    look = Voter(lambda x: torch.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3))], 1), GridNoise(0.25),
                 classes=2, units=2)  # fmt: skip
    return told(certify_dual([look], [by_voter(model, 0.12), by_voter(model)], images.pixels, spec=spec))


def by_cascade(model: nn.Module, images: Images) -> object:
    spec = CascadeSpec(cascade=Cascade((0.25, 0.12), (0.0, 0.0)), seed=0, n0=10, n=100, n_side=100)
    return told(certify_cascade([by_voter(model), by_voter(model, 0.12)], images.pixels, spec=spec))


WAYS: dict[str, Callable[[nn.Module, Images], object]] = {
    "predict": lambda m, i: predict(m, i.pixels, classes=3, spec=SPEC).tolist(),
    "certify": lambda m, i: told(certify(m, i.pixels, classes=3, spec=SPEC)),
    "certify a function": lambda m, i: told(certify(lambda x: m(x), i.pixels, classes=3, spec=SPEC)),
    "count_votes": lambda m, i: count_votes(m, i.pixels, blocks(), n=100, classes=3).tolist(),
    "a voter": lambda m, i: told(certify(by_voter(m), i.pixels, classes=3, spec=SPEC)),
    "freeze": lambda m, i: told(certify(frozen(m), i.pixels, classes=3, spec=SPEC)),
    "a dual system": by_dual,
    "a cascade": by_cascade,
    "a mix": lambda m, i: told(certify(Mix(network(seed=5), m, 0.8), i.pixels, classes=3, spec=SPEC)),
}


def blocks(sigma: float = 0.25) -> NoiseBlocks:
    return NoiseBlocks(GridNoise(sigma), SHAPE, seed=0, stream="estimation")


def frozen(model: nn.Module, *, dtype: torch.dtype = torch.float32, fast: FastPath | None = None):
    fast = fast or FastPath(compile=False)
    return freeze(model, GridNoise(0.25), SHAPE, classes=3, device=CPU, dtype=dtype, fast=fast, batch=200)


# 1 ------------------------------------------------------------------------------------- training mode


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("certify a function", "a mix")])
def test_a_network_in_training_mode_is_asked_as_in_evaluation_and_left_alone(
    images: Images, way: str
) -> None:
    model = network(nn.Dropout2d(0.5))
    wanted = WAYS[way](model, images)
    model.train()
    before = contents(model)
    assert WAYS[way](model, images) == wanted
    assert unharmed(model, before, training=True)
    part = network(nn.Dropout2d(0.5))
    part.body.norm.train()  # one layer is enough
    assert WAYS[way](part, images) == wanted


def test_a_mix_leaves_the_mode_of_its_networks_alone(images: Images) -> None:
    g, h = network(seed=5), network(nn.Dropout2d(0.5))
    wanted = told(certify(Mix(g, h, 0.8), images.pixels, classes=3, spec=SPEC))
    h.train()
    assert told(certify(Mix(g, h, 0.8), images.pixels, classes=3, spec=SPEC)) == wanted
    assert h.training


def test_a_function_around_a_network_in_training_mode_is_refused(images: Images) -> None:
    model = network(nn.Dropout2d(0.5)).train()
    before = contents(model)
    for function in (lambda x: model(x), model.forward, Around(model)):
        with pytest.raises(ValueError, match=r"a function around a Classifier in training mode.*\.eval\(\)"):
            certify(function, images.pixels, classes=3, spec=SPEC)
    assert unharmed(model, before, training=True)


class Around:
    """An object that holds a network."""

    def __init__(self, model: nn.Module) -> None:
        self.held = model

    def __call__(self, x: Tensor) -> Tensor:
        return self.held(x)


def test_an_error_within_leaves_the_mode_too(images: Images) -> None:
    model = network().train()
    model.body.more.append(Failing())
    with pytest.raises(RuntimeError, match="on purpose"):
        certify(model, images.pixels, classes=3, spec=SPEC)
    assert model.training


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("on purpose")


# 2 ------------------------------------------------------------------------ company, chance and memory


class Ranked(nn.Module):
    """Looks at its batch without any statistic that a layer would tell of."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class First(nn.Module):
    """Treats the first of a batch otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([2 * x[:1], x[1:]])


class Random(nn.Module):
    """Noise at test time, from torch, numpy, Python, or a generator of its own."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.own = source, torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        drawn = {
            "torch": lambda: float(torch.rand(())),
            "numpy": lambda: np.random.rand(),  # noqa: NPY002
            "Python": random.random,
            "own": lambda: float(torch.rand((), generator=self.own)),
        }
        return x * (0.5 + drawn[self.source]())


class Counting(nn.Module):
    """Remembers how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return x


FAULTY: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "BatchNorm without statistics": (
        lambda: network(norm=nn.BatchNorm2d(8, track_running_stats=False)),
        r"lie [\d.e+-]+ apart .*BatchNorm without running statistics: body\.norm",
    ),
    "a mean over the batch": (lambda: network(Ranked()), r"without other inputs beside|another order"),
    "the first of the batch": (lambda: network(First()), r"asked in another order"),
    "chance of its own": (lambda: network(Random("own")), r"asked a second time"),
    "torch's chance": (lambda: network(Random("torch")), r"global random generator of torch"),
    "numpy's chance": (lambda: network(Random("numpy")), r"global random generator of numpy"),
    "Python's chance": (lambda: network(Random("Python")), r"global random generator of Python"),
    "memory": (lambda: network(Counting()), r"changes its buffers .*body\.more\.0\.asked"),
}


@pytest.mark.parametrize("fault", FAULTY)
@pytest.mark.parametrize("way", ["certify", "certify a function", "freeze"])
def test_what_is_no_function_of_one_input_is_refused_and_left_as_it_was(
    images: Images, fault: str, way: str
) -> None:
    make, said = FAULTY[fault]
    model = make()
    before, state = contents(model), torch.get_rng_state()
    with pytest.raises(ValueError, match=said):
        WAYS[way](model, images)
    assert unharmed(model, before, training=False)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_sampling_is_guarded_at_the_same_place(images: Images, way: str) -> None:
    assert WAYS[way](network(nn.Dropout2d(0.5)), images)
    with pytest.raises(ValueError, match="BatchNorm without running statistics"):
        WAYS[way](network(norm=nn.BatchNorm2d(8, track_running_stats=False)), images)


def test_tables_of_all_systems_and_attacks_refuse_them_before_a_row(images: Images, tmp_path: Path) -> None:
    bad, good, quiet = network(Ranked()), network(), {"progress": False}
    path = tmp_path / "t.tsv"
    dual = DualSpec(estimator=Cuts((0.25,)), sigmas=(0.12, 0.25), seed=0, n0=10, n=100, n_estimator=100)
    cascade = CascadeSpec(cascade=Cascade((0.25, 0.12), (0.0, 0.0)), seed=0, n0=10, n=100, n_side=100)
    cut = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).eval()
    calls = [
        lambda one: certify_table(one, images, path, spec=SPEC, **quiet),
        lambda one: certify_dual_table([cut], [good, one], images, path, spec=dual, **quiet),
        lambda one: certify_cascade_table([good, one], images, path, spec=cascade, **quiet),
        lambda one: evaluate_table(one, images, path, threat=THREAT, **quiet),
        lambda one: label_votes([good, one], images, path, sigmas=(0.12, 0.25), seed=0),
        lambda one: evaluate_systems(good, one, {"mix": Mix(good, one, 0.7)}, images, threat=THREAT, **quiet),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"lie .* apart"):
            call(bad)
        assert not path.exists()
        call(good)
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)


def test_an_attack_looks_at_the_images_that_it_will_show(images: Images) -> None:
    shown = [index.tolist() for index, *_ in attacked_batches(images, [1, 3, 5], 2, CPU, False)]
    assert shown == [[1, 3], [5]]
    vet("a call", [network()], images, [1, 3, 5])
    vet("a call", [network(Ranked())], images, [])  # nothing will be shown
    with pytest.raises(ValueError, match=r"a call: .* apart"):
        vet("a call", [network(), network(Ranked())], images, [1, 3, 5])


def test_rounding_by_the_size_of_a_batch_is_no_fault(images: Images) -> None:
    """Nor are logits of any size, infinite ones, or a network that always says the same."""
    for model in (
        make_model("resnet20", classes=3, channels=1, mean=[0.5], std=[0.1], seed=0).eval(),
        nn.Sequential(network(), Scaled(1e6, 0.0)),
        nn.Sequential(network(), Scaled(1e-6, 1e3)),
        lambda x: torch.where(x.mean((1, 2, 3), keepdim=False)[:, None] > torch.tensor([0.3, 0.5, 9.0]),
                              torch.inf, 0.0),
        lambda x: torch.zeros(len(x), 3),
    ):  # fmt: skip
        assert count_votes(model, images.pixels, blocks(), n=100, classes=3).sum() == 600


class Scaled(nn.Module):
    def __init__(self, by: float, plus: float) -> None:
        super().__init__()
        self.by, self.plus = by, plus

    def forward(self, x: Tensor) -> Tensor:
        return self.by * x + self.plus


def test_other_widths_and_nan_are_named(images: Images, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"logits \(\d+, 3\).*wanted \(\d+, 4\)"):
        count_votes(network(), images.pixels, blocks(), n=100, classes=4)
    four = replace(images, classes=(*NAMES, "fox"))
    for call in (
        lambda: table(network(), four, tmp_path / "t.tsv"),
        lambda: evaluate_table(network(), four, tmp_path / "t.tsv", threat=THREAT, progress=False),
    ):
        with pytest.raises(ValueError, match=r"logits \(\d+, 3\).*wanted \(\d+, 4\)"):
            call()
    with pytest.raises(ValueError, match=r"count_votes: the model gave a tuple; wanted logits"):
        count_votes(lambda x: (x,), images.pixels, blocks(), n=100, classes=3)
    broken = network()
    broken.body.fc.weight.data[0, 0] = torch.nan
    for call in (
        lambda: count_votes(broken, images.pixels, blocks(), n=100, classes=3),
        lambda: table(broken, images, tmp_path / "t.tsv"),
        lambda: evaluate_table(broken, images, tmp_path / "t.tsv", threat=THREAT, progress=False),
    ):
        with pytest.raises(FloatingPointError, match="NaN logits for 3 of 3 inputs"):
            call()
    assert not [*tmp_path.glob("*.tsv")]


# 3 ------------------------------------------------------------------------------ folding and agreement


class Shared(nn.Module):
    """One convolution with two BatchNorms behind it: folded into it, the second is on top of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.conv(torch.relu(self.one(self.conv(x)))))


def hooked() -> nn.Module:
    model = network()
    model.body.conv.register_forward_hook(lambda module, args, out: out.abs())
    return model


def hooked_at_the_root() -> nn.Module:
    model = network()
    model.register_forward_hook(lambda module, args, out: out.flip(1))
    return model


def normed(how: Callable[[nn.Module], nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the old style, which is the point
        model = network()
        how(model.body.conv)
    return model.eval()


UNFOLDABLE: dict[str, Callable[[], nn.Module]] = {
    "a shared convolution": lambda: network(Shared()),
    "a hook behind a convolution": hooked,
    "a hook at the root": hooked_at_the_root,
    "old weight_norm": lambda: normed(weight_norm),
    "old spectral_norm": lambda: normed(spectral_norm),
}


@pytest.mark.parametrize("kind", UNFOLDABLE)
def test_a_step_that_changes_the_network_is_left_out_and_recorded(
    images: Images, tmp_path: Path, kind: str
) -> None:
    model = UNFOLDABLE[kind]()
    wanted = told(certify(model, images.pixels, classes=3, spec=SPEC))
    model(torch.rand(2, *SHAPE))  # with gradients, which leaves weights that torch does not copy
    with pytest.warns(UserWarning, match="without the step 'fold'"):
        voter = frozen(model)
    assert voter.steps["fold"] is False
    assert told(certify(voter, images.pixels, classes=3, spec=SPEC)) == wanted
    assert disagreement(model, voter, images.pixels, blocks())["share"] == 0
    with pytest.warns(UserWarning, match="without the step 'fold'"):
        certify_table(model, images, tmp_path / "t.tsv", spec=SPEC, progress=False)
    assert record(tmp_path / "t.tsv")["identity"]["fast"]["fold"] is False


@pytest.mark.parametrize("how", [parametrizations.weight_norm, parametrizations.spectral_norm, None])
def test_what_can_be_folded_still_answers_alike(images: Images, how: Callable | None) -> None:
    model = normed(how) if how else network()
    wanted = told(certify(model, images.pixels, classes=3, spec=SPEC))
    with warnings.catch_warnings():
        if how:
            warnings.simplefilter("ignore")  # whether folding goes through them is torch's to say
        voter = frozen(model)
    assert how or voter.steps["fold"]
    assert told(certify(voter, images.pixels, classes=3, spec=SPEC)) == wanted


def test_a_copy_that_votes_too_often_otherwise_is_refused_and_others_are_told(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, path = network(seed=9), tmp_path / "t.tsv"
    monkeypatch.setattr(jobs, "freeze", lambda _model, *args, **how: freeze(other, *args, **how))
    with pytest.raises(ValueError, match=r"votes otherwise than its original.*at most 5%"):
        certify_table(network(), images, path, spec=SPEC, progress=False)
    assert not path.exists()
    monkeypatch.undo()
    monkeypatch.setattr(jobs, "disagreement", lambda *_: {"draws": 600, "share": 0.02})
    with pytest.warns(UserWarning, match=r"gives 2\.00% of 600 votes otherwise"):
        table(network(), images, path)
    assert record(path)["disagreement"]["share"] == 0.02
    for share in (0.0, BY_ROUNDING):  # without a word
        check_disagreement("a call", {"draws": 9, "share": share}, torch.float32)


def test_a_table_whose_record_tells_of_another_classifier_is_not_handed_out(
    images: Images, tmp_path: Path
) -> None:
    """As earlier versions left them: measured, written, and never read."""
    path = tmp_path / "t.tsv"
    table(network(), images, path)
    for share, fine in ((MOST_OTHERWISE, True), (1.0, False)):
        noted = record(path) | {"disagreement": {"draws": 600, "share": share}}
        path.with_suffix(".json").write_text(json.dumps(noted))
        if fine:
            table(network(), images, path)
        else:
            with pytest.raises(ValueError, match=r"t\.tsv is of a frozen network that gives 100\.0%"):
                table(network(), images, path)
    assert recorded_disagreement({"disagreement": [None, {"draws": 1, "share": 0.2}]}) == 0.2


# 4 ------------------------------------------------------------------------------------------ identity


class Behind(nn.Module):
    """A network behind a normalisation that no state dict tells of, as torchvision's `Normalize` is."""

    def __init__(self, network: nn.Module, mean: float) -> None:
        super().__init__()
        self.network, self.mean = network, mean

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x - self.mean)


def test_equal_weights_behind_another_normalisation_are_another_network(
    images: Images, tmp_path: Path
) -> None:
    path, ours, other = tmp_path / "t.tsv", Behind(network(), 0.0), Behind(network(), 0.2)
    first = table(ours, images, path, max_images=3)
    for more in ({"max_images": 3}, {}):  # a complete table, and one that would go on
        with pytest.raises(ValueError, match=r"t\.tsv was made by other networks: their weights are equal"):
            table(other, images, path, **more)
    assert path.read_text() == first
    assert table(ours, images, path).startswith(first)
    with pytest.warns(UserWarning, match=r"other networks.*it is now t_old1\.tsv"):
        table(other, images, path, replace=True)
    assert (tmp_path / "t_old1.tsv").exists()


def test_so_they_are_in_mixes_attacks_labels_and_recorded_tables(images: Images, tmp_path: Path) -> None:
    """A mix of another weight has equal tensors, too."""
    one, two, plain = network(seed=1), network(seed=2), FastPath.plain()  # mixes cannot be folded
    spec = replace(SPEC, fast=plain)
    tables = [
        lambda m, p: certify_table(m, images, p, spec=spec, progress=False),
        lambda m, p: evaluate_table(m, images, p, threat=THREAT, progress=False),
        lambda m, p: label_votes([m], images, p, sigmas=[0.25], seed=0, fast=plain),
    ]
    for number, make in enumerate(tables):
        path = tmp_path / f"{number}.tsv"
        make(Mix(one, two, 0.9), path)
        make(Mix(one, two, 0.9), path)
        with pytest.raises(ValueError, match="other networks"):
            make(Mix(one, two, 0.6), path)
    known = tmp_path / "0.tsv"  # of which a dual system would read the votes
    assert recorded_steps("a call", known, Mix(one, two, 0.9), images, SPEC)["dtype"] == "float32"
    with pytest.raises(ValueError, match=r"a call: .*0\.tsv was made by other networks"):
        recorded_steps("a call", known, Mix(one, two, 0.6), images, SPEC)


def test_a_probe_is_the_same_up_to_rounding_and_no_further(images: Images, tmp_path: Path) -> None:
    model = network()
    answers = probe(model, SHAPE)
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        assert same_answers(answers, probe(duplicate(model).train(), SHAPE))
    finally:
        torch.set_num_threads(threads)
    rounded = [[value * (1 + 3e-5) for value in row] for row in answers]  # another machine
    assert same_answers(answers, rounded)
    assert same_answers(answers, probe(duplicate(model).double(), SHAPE))
    assert not same_answers(answers, probe(Behind(model, 0.002), SHAPE))  # half a step of a pixel
    assert not same_answers(answers, [row[:2] for row in answers])
    path = tmp_path / "t.tsv"
    first = table(model, images, path, max_images=2)
    path.with_suffix(".json").write_text(json.dumps(record(path) | {"probe": [rounded]}))
    assert table(model, images, path).startswith(first)


def test_a_table_from_before_there_were_probes_goes_on_and_is_read(images: Images, tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    first = table(network(), images, path, max_images=2)
    earlier = {k: v for k, v in record(path).items() if k not in ("probe", "drawn", "classes")}
    path.with_suffix(".json").write_text(json.dumps(earlier))
    assert table(network(), images, path, max_images=2) == first
    assert table(network(), images, path).startswith(first)
    assert record(path).keys() == earlier.keys()  # nothing is claimed of rows that others made


# 5 -------------------------------------------------------------------------------------------- voters


def test_a_voter_for_one_noise_is_refused_under_another(images: Images) -> None:
    voter, x = by_voter(network()), images.pixels
    for other in (GridNoise(0.5), GaussianNoise(0.25)):
        spec = replace(SPEC, noise=other)
        calls = [
            lambda spec=spec: certify(voter, x, classes=3, spec=spec),
            lambda spec=spec: predict(voter, x, classes=3, spec=spec),
            lambda o=other: count_votes(voter, x, blocks_of(o), n=100, classes=3),
            lambda o=other: next(sample(voter, x, blocks_of(o), draws=100)),
            lambda o=other: disagreement(network(), voter, x, blocks_of(o)),
        ]
        for call in calls:
            with pytest.raises(ValueError, match=r"a voter made for GridNoise\(sigma=0\.25\).*0\.5|Gaussian"):
                call()
    with pytest.raises(ValueError, match=r"and 3 classes; wanted one for .* and 4"):
        certify(voter, x, classes=4, spec=SPEC)
    assert len(certify(voter, x, classes=3, spec=SPEC)) == 6
    cascade = CascadeSpec(cascade=Cascade((0.5, 0.12), (0.0, 0.0)), seed=0, n0=10, n=100, n_side=100)
    with pytest.raises(ValueError, match="wanted voters for"):
        certify_cascade([voter, by_voter(network(), 0.12)], x, spec=cascade)


def blocks_of(law: GridNoise | GaussianNoise) -> NoiseBlocks:
    return NoiseBlocks(law, SHAPE, seed=0, stream="estimation")


# 12 -------------------------------------------------------------------------------------------- noise


def test_a_device_that_lacks_random_bits_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.randint
    for few in (lambda bits: bits % 2**31, lambda bits: bits >> 20 << 20):  # Apple's, and one by floats
        noise._want_all_bits.cache_clear()
        monkeypatch.setattr(torch, "randint", lambda *args, few=few, **how: few(whole(*args, **how)))
        with pytest.raises(ArithmeticError, match=r"(29|20) of 60 bits .* never change on cpu.*NoiseBlocks"):
            GridNoise(0.25).draw((10,), torch.Generator())
    monkeypatch.undo()
    noise._want_all_bits.cache_clear()
    assert GridNoise(0.25).draw((10,), torch.Generator()).shape == (10,)


def test_noise_for_other_devices_is_drawn_on_the_cpu() -> None:
    assert drawing_device(torch.device("mps")) == CPU
    assert drawing_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    here = NoiseBlocks(GridNoise(0.25), SHAPE, seed=0, stream="s")[0]
    there = NoiseBlocks(GridNoise(0.25), SHAPE, seed=0, stream="s", device="meta")[0]
    assert there.device.type == "meta"  # moved there: a meta device cannot draw at all
    assert there.shape == here.shape


def test_a_cpu_keeps_32_bits_of_a_seed_and_no_two_blocks_are_the_same_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def drawn(seed: int) -> Tensor:
        return torch.rand(5, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(7), drawn(7 + 2**40))  # what the docstring of `make_generator` says
    before = [blocks()[number] for number in range(4)]

    # as if all blocks met in the bits that count
    monkeypatch.setattr(noise, "fold_seed", lambda seed, *path: path.count("again") + (path[-1] == 2) * 2**40)
    some = blocks()
    drawn_now = [some[number] for number in (3, 0, 2, 1)]
    for i, one in enumerate(drawn_now):
        assert not any(torch.equal(one, other) for other in drawn_now[:i])
    again = blocks()
    assert torch.equal(again[0], some[0])
    assert torch.equal(again[3], some[3])
    monkeypatch.undo()
    assert all(torch.equal(one, blocks()[number]) for number, one in enumerate(before))
    of_one_table = [fold_seed(0, "noise", "estimation", number) % 2**32 for number in range(300)]
    assert len({*of_one_table}) == 300  # 1 in 100,000 at so many


def test_a_table_begun_with_other_noise_does_not_go_on(images: Images, tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    first = table(network(), images, path, max_images=3)
    ours = record(path)["drawn"]
    noted = note([network()], [GridNoise(0.25)], images, seed=3, device=CPU)
    assert noted.items() <= record(path).items()
    assert reason_to_stop(record(path), noted, complete=False) == ""
    assert ours == {"device": "cpu", "first": [first_draws(GridNoise(0.25), seed=3, device=CPU)]}
    shifted = [[value + 1 for value in ours["first"][0]]]
    for other in (ours | {"device": "cuda"}, ours | {"first": shifted}):
        path.with_suffix(".json").write_text(json.dumps(record(path) | {"drawn": other}))
        assert table(network(), images, path, max_images=3) == first  # complete: nothing is drawn
        with pytest.raises(ValueError, match=r"t\.tsv was begun with noise drawn on (cuda|cpu); cpu draws"):
            table(network(), images, path)
    with pytest.warns(UserWarning, match=r"begun with noise.*it is now t_old1\.tsv"):
        table(network(), images, path, replace=True)
    assert record(path)["drawn"] == ours


# classes and shapes ------------------------------------------------------------------------------------


def taught(images: Images, *, names: tuple[str, ...] = NAMES, shape: tuple[int, ...] = SHAPE) -> Classifier:
    made = network()
    made.made_for = MadeFor(outputs=3, channels=1, classes=names, shape=shape)
    return made


def test_the_same_names_in_another_order_are_mapped_and_said(images: Images, tmp_path: Path) -> None:
    """Folders zero … nine sort otherwise: the network is right, and so must be its certificates."""
    model = taught(images)
    order = (2, 0, 1)
    renamed = replace(
        images,
        classes=tuple(NAMES[k] for k in order),
        labels=torch.tensor([order.index(int(y)) for y in images.labels]),
    )
    table(model, images, tmp_path / "a.tsv")
    with pytest.warns(UserWarning, match="its classes in another order"):
        table(model, renamed, tmp_path / "b.tsv")
    ours, mapped = (certify_rows(tmp_path / name) for name in ("a.tsv", "b.tsv"))
    assert [(order[p] if p >= 0 else p, r, c) for p, r, c in mapped] == ours
    assert record(tmp_path / "a.tsv")["classes"] == ["by name"]
    assert record(tmp_path / "b.tsv")["classes"] == ["by name, outputs moved from the order cat, dog, emu"]
    assert unharmed(model, contents(taught(images)), training=False)
    assert model.made_for.classes == NAMES
    with pytest.warns(UserWarning, match="another order"):
        moved = suited("a call", model, renamed)
    assert suited("a call", moved, renamed) is moved
    for count in (
        lambda m, i: accuracy(m, i, seed=0),
        lambda m, i: robust_accuracy(m, i, eps=0.01, attack=PGD(steps=1), seed=0),
    ):
        wanted = count(model, images)
        with pytest.warns(UserWarning, match="another order"):
            assert count(model, renamed) == wanted


def certify_rows(path: Path) -> list[tuple[int, float, int]]:
    cells = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    return [(int(row[2]), float(row[3]), int(row[4])) for row in cells]


OTHERS: dict[str, tuple[dict, str]] = {
    "other names": (
        {"names": ("cat", "cow", "emu")},
        r"tells the classes 'cow', …, the images have 'dog', …;",
    ),
    "other size": ({"shape": (1, 8, 8)}, r"images of 1 x 8 x 8 .*these are of 1 x 6 x 6"),
    "other channels": ({"shape": (3, 6, 6)}, r"images of 3 x 6 x 6"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_classes_and_shapes_are_refused_with_both_sides(
    images: Images, tmp_path: Path, what: str
) -> None:
    given, said = OTHERS[what]
    model, quiet = taught(images, **given), {"progress": False}
    path = tmp_path / "t.tsv"
    cascade = CascadeSpec(cascade=Cascade((0.25, 0.12), (0.0, 0.0)), seed=0, n0=10, n=100, n_side=100)
    dual = DualSpec(estimator=Cuts((0.25,)), sigmas=(0.12, 0.25), seed=0, n0=10, n=100, n_estimator=100)
    cut = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).eval()
    for call in (
        lambda: certify_table(model, images, path, spec=SPEC, **quiet),
        lambda: certify_table(Mix(network(), model, 0.8), images, path, spec=SPEC, **quiet),
        lambda: certify_cascade_table([network(), model], images, path, spec=cascade, **quiet),
        lambda: certify_dual_table([cut], [network(), model], images, path, spec=dual, **quiet),
        lambda: evaluate_table(model, images, path, threat=THREAT, **quiet),
        lambda: evaluate_systems(
            network(), model, {"m": Mix(network(), model, 0.7)}, images, threat=THREAT, **quiet
        ),
        lambda: label_votes([model], images, path, sigmas=[0.25], seed=0),
        lambda: accuracy(model, images, seed=0),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    assert not [*tmp_path.iterdir()]


def test_other_numbers_of_classes_are_refused_and_old_checkpoints_say_what_was_compared(
    images: Images, tmp_path: Path
) -> None:
    for classes in (2, 4):
        few = make_model("digits_cnn", classes=classes, channels=1, mean=[0.5], std=[0.2], seed=0)
        save_checkpoint(tmp_path / "m.safetensors", few)
        model, _ = load_checkpoint(tmp_path / "m.safetensors")
        with pytest.raises(
            ValueError, match=rf"tells {classes} classes, the images have 3 'cat', 'dog', 'emu'"
        ):
            evaluate_table(model, images, tmp_path / "t.tsv", threat=THREAT, progress=False)
    old = make_model("digits_cnn", classes=3, channels=1, mean=[0.5], std=[0.2], seed=0)
    save_checkpoint(tmp_path / "m.safetensors", old)
    model, _ = load_checkpoint(tmp_path / "m.safetensors")
    with pytest.warns(UserWarning, match="does not name its classes; that there are 3 was compared"):
        table(model, images, tmp_path / "t.tsv")
    assert record(tmp_path / "t.tsv")["classes"] == ["by number"]
    colour = replace(images, pixels=images.pixels.expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match="images of 1 x 6 x 6"):
        table(model, colour, tmp_path / "u.tsv")
    save_checkpoint(tmp_path / "m.safetensors", old, data={"classes": NAMES, "shape": SHAPE})
    named, _ = load_checkpoint(tmp_path / "m.safetensors")
    assert named.made_for == MadeFor(outputs=3, channels=1, classes=NAMES, shape=SHAPE)
    table(named, images, tmp_path / "v.tsv")
    for odd in (5, "text", {"classes": 7, "shape": "big"}, {"classes": {}, "shape": [1, None, 6]}):
        save_checkpoint(tmp_path / "m.safetensors", old, data=odd)
        assert load_checkpoint(tmp_path / "m.safetensors")[0].made_for == MadeFor(outputs=3, channels=1)


def test_training_notes_what_the_outputs_mean_and_numbered_images_do_not_change_it(
    images: Images, tmp_path: Path
) -> None:
    config = TrainConfig(epochs=1, seed=0, batch=4, crop=0, flip=False)
    how = {"objective": Standard(), "config": config, "device": CPU, "progress": False}
    known = MadeFor(outputs=3, channels=1, classes=NAMES, shape=SHAPE)
    fresh = new_network("digits_cnn", images, seed=0)
    assert fresh.made_for == known
    kept, info = train_checkpoint(tmp_path / "a.safetensors", lambda: duplicate(fresh), images, **how)
    assert (kept.made_for, info["data"]["classes"]) == (known, [*NAMES])
    own = numbered(images.select([0, 1, 2, 0, 1, 2, 0, 1]))
    own = replace(own, labels=own.labels % 3)  # an objective would look labels up by number
    tuned, _ = train_checkpoint(tmp_path / "b.safetensors", lambda: duplicate(kept), own, **how)
    assert tuned.made_for == known
    renamed = replace(images, classes=NAMES[::-1])
    train(tuned, renamed, objective=Standard(), config=config, progress=False)
    assert tuned.made_for == replace(known, classes=NAMES[::-1])  # by now it has learned the new order

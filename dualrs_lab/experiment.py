"""Where the files of an experiment are: data set, network, seed and settings name each of them, here alone.

An `Experiment` names what the notebooks leave in a folder for each other, a `Shelf` what a benchmark leaves
there and the repository ships under data/. Nothing is made here, and no torch is loaded.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from dualrs_lab.adapters.sources import source_name
from dualrs_lab.evidence.table import read_table
from dualrs_lab.files import digest

__all__ = ["Experiment", "Shelf", "network_label"]


# Which notebook makes what.
_NETWORKS = {"accurate": "24_mixing", "robust": "24_mixing", "head": "25_adaptive"}


_SYSTEMS = {"weights": "24_mixing", "published": "24_mixing", "systems": "25_adaptive", "auto": "25_adaptive"}


_BOARD = {"pixels": "23_pixel_reweighting", "mixing": "24_mixing", "certified_mixing": "24_mixing"}


_BOARD |= {"adaptive": "25_adaptive"}


# What experts were trained for: how their names end, and who makes them and their tables.
_THROUGH = {
    "cascade": ("tuned", "22_dual", "python -m benchmarks.quality"),
    "combiner": ("combined", *("python -m benchmarks.combined_experts",) * 2),
    "alone": ("alone", *("python -m benchmarks.combined_experts",) * 2),
}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The files of one data set, network and seed in `folder`, each by what it holds.

    `data` is `Images.title`, `n` the draws of its certificates. `model` is a name of MODELS, of which one is
    trained for each noise level; or a network is `given`, the same one at all of them: `model` is then a
    source of `adapters.load_network`, with what this one does not say in `weights`, `mean` and `std`, and
    perhaps a `denoiser` in front (see `denoising.in_front`). A file is named whether it is there or not;
    through `made` one that is missing is an error that says who makes it.
    """

    folder: Path | str
    data: str
    model: str
    seed: int = 0
    n: int = 1000
    required: bool = False
    weights: str = ""
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    denoiser: str = ""

    def __post_init__(self) -> None:
        if not self.given and self._said:
            raise ValueError(
                f"Experiment: got {', '.join(self._said)} for the network {self.model!r}, which is trained "
                "here; name one that is there as model: a file, torchvision:NAME, module:factory, …"
            )

    @classmethod
    def shipped(cls, root: Path | str) -> "Experiment":
        """The experts on CIFAR-10 that come with the repository; `root` is its folder data/."""
        return cls(folder=Path(root) / "cifar10_jpeg", data="cifar10_jpeg", model="fast_narrow", n=10_000)

    @property
    def made(self) -> "Experiment":
        """The same files, but one that is missing is a FileNotFoundError: which notebook to run first."""
        return replace(self, required=True)

    @property
    def given(self) -> bool:
        """Whether the network comes from elsewhere: names of MODELS are words, sources are not."""
        return not self.model.isidentifier()

    @property
    def label(self) -> str:
        """The network in names of files; of one that is given, its source and a digest of what was said."""
        if not self.given:
            return self.model
        name = re.sub(r"[^\w.-]+", "_", source_name(self.model))[:60]
        return f"{name}_{digest(repr((self.model, sorted(self._said.items()))))[:8]}"

    def levels_of(self, sigmas: Iterable[float]) -> list[float]:
        """Noise levels that have a network, those above 0 first; one that is given has none for 0."""
        every = sorted(set(sigmas), key=lambda sigma: (sigma == 0, sigma))
        return [sigma for sigma in every if sigma or not self.given]

    def origin(self, sigma: float, network: object = None) -> dict[str, Any]:
        """What records say of the network of level `sigma`: where it is from, and its own `info`."""
        if not self.given:
            return {"checkpoint": self.expert(sigma).name, "trained_sigma": sigma}
        told = {
            name: source_name(value) if isinstance(value, str) else [*value]
            for name, value in self._said.items()
        }
        info = {name: value for name, value in getattr(network, "info", {}).items() if name != "names"}
        return {"checkpoint": source_name(self.model), **told} | ({"network": info} if info else {})

    @property
    def _said(self) -> dict[str, Any]:
        # of a network from elsewhere
        what = {"weights": self.weights, "mean": self.mean, "std": self.std, "denoiser": self.denoiser}
        return {name: value for name, value in what.items() if value}

    def expert(self, sigma: float) -> Path:
        """The network trained under noise `sigma`; 0 is the one that saw none."""
        self._want_trained("expert")
        return self._file("20_train", f"{self._level(sigma)}.safetensors")

    def certificates(self, sigma: float, *, smoothed: float | None = None) -> Path:
        """Certificates of `expert(sigma)`, smoothed with that sigma or another one."""
        return self._file("21_certify", f"{self._level(sigma)}{self._smoothed(sigma, smoothed)}")

    def early(self, sigma: float, most: int) -> Path:
        """Certificates of `expert(sigma)` whose images stop early, after `most` draws at the latest."""
        return self._file("21_certify", f"{self._level(sigma)}_smoothed{sigma:g}_early{most}.tsv")

    def tuned(self, sigma: float, *, through: str = "cascade") -> Path:
        """The expert of `sigma`, trained on for a radius.

        That is the radius of all experts together, "cascade" or "combiner", or that of each by itself,
        "alone".
        """
        name, maker, _ = self._tuned(through)
        return self._file(maker, f"{self._level(sigma)}_{name}.safetensors")

    def tuned_certificates(self, sigma: float, *, through: str = "cascade") -> Path:
        """Certificates of `tuned(sigma)` by itself."""
        name, _, maker = self._tuned(through)
        return self._file(maker, f"{self._level(sigma)}_{name}{self._smoothed(sigma)}")

    def labels(self, step: int) -> Path:
        """Votes about every `step`-th training image, from which a router learns."""
        return self._file("22_dual", f"labels_seed{self.seed}_{step}.safetensors")

    @property
    def router(self) -> Path:
        """How the names of the router's cuts begin, see `dual.train_router`."""
        return replace(self, required=False)._file("22_dual", f"router_seed{self.seed}")

    @property
    def dual(self) -> Path:
        """Certificates of the dual system."""
        return self._file("22_dual", f"dual_seed{self.seed}_n{self.n}.tsv")

    @property
    def cascade(self) -> Path:
        """Certificates of the cascade of the tuned experts; of a network that is given, as it is."""
        how = "drawn" if self.given else "tuned"
        return self._file("22_dual", f"cascade_{how}_seed{self.seed}_n{self.n}.tsv")

    def smooth(self, rate: float) -> Path:
        """Certificates of an expert under noise that changes slowly with the image, see `peers`."""
        return self._file("22_dual", f"smooth_{rate:g}_seed{self.seed}_n{self.n}.tsv")

    @property
    def combiner(self) -> Path:
        """The combiner of the experts, learnt from votes about training images."""
        return self._file("22_dual", f"combiner_seed{self.seed}_n{self.n}.json")

    def arm(self, name: str, seed: int) -> Path:
        """A network of `23_pixel_reweighting`, such as "PART 0.1"; each arm has one for several seeds."""
        return self._file("23_pixel_reweighting", f"{self._arm(name, seed)}.safetensors")

    def attacked(self, name: str, seed: int, epoch: str = "") -> Path:
        """Its answers under attack, of the `epoch` "last" or "best"; networks of other hosts have none."""
        ending = f"_{epoch}_attacked.tsv" if epoch else ".attacked.tsv"
        return self._file("23_pixel_reweighting", self._arm(name, seed) + ending)

    def autoattack(self, name: str, seed: int) -> Path:
        """Its answers under AutoAttack."""
        return self._file("23_pixel_reweighting", f"{self._arm(name, seed)}_autoattack.tsv")

    def mixing(self, role: str) -> Path:
        """The network "accurate" or "robust" of the mixes, or the "head" that chooses a weight."""
        return self._file(_maker("mixing", role, _NETWORKS), f"mixing_{role}_seed{self.seed}.safetensors")

    def systems(self, what: str) -> Path:
        """Answers of mixes: at many "weights", "published" scalings, all "systems", under "auto" attack."""
        return self._file(_maker("systems", what, _SYSTEMS), f"mixing_{what}_seed{self.seed}.tsv")

    def board(self, what: str) -> Path:
        """Points for the board: of "pixels", "mixing", "certified_mixing" or "adaptive"."""
        return self._file(_maker("board", what, _BOARD), f"board_{what}.csv")

    def levels(self) -> list[tuple[float, float]]:
        """(sigma in training, sigma of smoothing) of all tables of certificates that are there at this n.

        Networks that saw noise come first, by level. Raises FileNotFoundError where there is none.
        """
        start = re.escape(f"{self.data}_{self.label}_")
        level = "given()" if self.given else "sigma([^_]+)"
        pattern = re.compile(rf"{start}{level}_seed{self.seed}_smoothed([^_]+)_n{self.n}\.tsv")
        names = [path.name for path in Path(self.folder).glob("*.tsv")]
        found = [match.groups() for name in names if (match := pattern.fullmatch(name))]
        if not found:
            raise FileNotFoundError(
                f"no certificates of {self.data}_{self.label}, seed {self.seed}, n = {self.n} in "
                f"{self.folder}; run 21_certify with the same parameters first"
            )
        return sorted(((float(a or b), float(b)) for a, b in found), key=lambda pair: (pair[0] == 0, pair[1]))

    def singles(self, sigmas: Iterable[float] | None = None) -> dict[float, pd.DataFrame]:
        """Certificates by noise level, each network smoothed at its own: of `sigmas`, or of all there are."""
        wanted = [a for a, b in self.levels() if a == b] if sigmas is None else sigmas
        return {sigma: read_table(self.made.certificates(sigma)) for sigma in wanted}

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables of certificates that are there at this n, each under its `network_label`."""
        return {network_label(a, b): read_table(self.certificates(a, smoothed=b)) for a, b in self.levels()}

    def _file(self, maker: str, name: str) -> Path:
        path = Path(self.folder) / f"{self.data}_{self.label}_{name}"
        if self.required and not path.exists():
            raise FileNotFoundError(f"{path} is missing; run {maker} with the same parameters first")
        return path

    def _level(self, sigma: float) -> str:
        return f"given_seed{self.seed}" if self.given else f"sigma{sigma:g}_seed{self.seed}"

    def _want_trained(self, what: str) -> None:
        if self.given:
            raise ValueError(
                f"Experiment.{what}: got {source_name(self.model)}, which is given and not trained; wanted a "
                "name of MODELS"
            )

    def _smoothed(self, sigma: float, smoothed: float | None = None) -> str:
        return f"_smoothed{sigma if smoothed is None else smoothed:g}_n{self.n}.tsv"

    def _tuned(self, through: str) -> tuple[str, str, str]:
        self._want_trained("tuned")
        if through not in _THROUGH:
            raise ValueError(f"Experiment.tuned: got {through!r}; wanted one of {', '.join(_THROUGH)}")
        return _THROUGH[through]

    def _arm(self, name: str, seed: int) -> str:
        return f"pixels_{name.replace(' ', '_').replace('.', '')}_seed{seed}"


@dataclass(frozen=True)
class Shelf:
    """What a benchmark leaves in a folder; the repository ships it as the part `name` of its folder data/."""

    root: Path | str
    name: str = ""

    @property
    def folder(self) -> Path:
        """Where all of it is."""
        return Path(self.root) / self.name

    def network(self, name: str, seed: int = 0) -> Path:
        """A checkpoint."""
        return self._file(f"{name}_seed{seed}.safetensors")

    def attacked(self, name: str, seed: int = 0) -> Path:
        """Its answers under PGD and MMA, image by image."""
        return self._file(f"{name}_seed{seed}_attacked.tsv")

    def autoattack(self, name: str, seed: int = 0) -> Path:
        """Its answers under AutoAttack, image by image."""
        return self._file(f"{name}_seed{seed}_autoattack.tsv")

    def answers(self, name: str) -> Path:
        """Answers of several systems, image by image."""
        return self._file(f"{name}.tsv")

    def table(self, name: str) -> Path:
        """Their summary."""
        return self._file(f"{name}.csv")

    def combiner(self, name: str) -> Path:
        """A combiner that was learnt, by the setting of its dial."""
        return self._file(f"combiner_{name}.json")

    def read(self, name: str) -> pd.DataFrame:
        """The summary `name`; FileNotFoundError says which there are."""
        if not self.table(name).exists():
            there = ", ".join(sorted(path.stem for path in self.folder.glob("*.csv"))) or "none"
            raise FileNotFoundError(f"no table {name!r} in {self.folder}; tables there: {there}")
        return pd.read_csv(self.table(name))

    def log(self, sigma: float) -> Path:
        """The certification log of Cohen et al. (2019): their ResNet-110 on CIFAR-10."""
        return self._file(f"cohen2019_cifar10_resnet110_sigma_{sigma:.2f}.tsv")

    def _file(self, name: str) -> Path:
        return self.folder / name


def network_label(trained: float, smoothed: float) -> str:
    """How a network is told from others: by the noise of smoothing, and that of training if it is another."""
    if trained == smoothed:
        return f"σ = {smoothed:g}"
    return (
        f"σ = {smoothed:g}, trained at {trained:g}" if trained else f"no noise in training, σ = {smoothed:g}"
    )


def _maker(call: str, what: str, makers: Mapping[str, str]) -> str:
    if what not in makers:
        raise ValueError(f"Experiment.{call}: got {what!r}; wanted one of {', '.join(makers)}")
    return makers[what]

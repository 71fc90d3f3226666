"""AutoAttack (Croce and Hein 2020), in the code of its authors."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dualrs_lab.attacks.checks import as_budget, check_inputs
from dualrs_lab.attacks.norms import L2, LINF, Linf, Norm
from dualrs_lab.runtime import fold_seed

__all__ = ["STANDARD", "auto_attack"]


STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
"""What AutoAttack's standard version consists of."""


def auto_attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    seed: int,
    norm: Norm = LINF,
    attacks: Sequence[str] = STANDARD,
    batch: int = 250,
) -> Tensor:
    """AutoAttack in the code of its authors, the package `pyautoattack`; by default its standard version.

    Returns inputs like `pgd`: x itself for images that withstood all `attacks`. The budget is one number. The
    global random state is left as it was.

    Raises ModuleNotFoundError without the extra `attacks`, ValueError for fewer than 4 classes, which the
    targeted loss needs, and otherwise as `pgd`.
    """
    check_inputs("auto_attack", model, x, y)
    as_budget("auto_attack", eps, x)
    try:
        from pyautoattack import AutoAttack
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "auto_attack: needs pyautoattack; install it with pip install 'dualrs-lab[attacks]'"
        ) from error
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    if classes < 4 or isinstance(norm, Linf) == isinstance(norm, L2):
        raise ValueError(
            f"auto_attack: got {classes} classes and {norm}; wanted 4 or more, and Linf() or L2()"
        )
    unknown = {*attacks} - {*STANDARD, "apgd-dlr", "fab"}
    if unknown or not attacks:
        raise ValueError(
            f"auto_attack: got attacks {tuple(attacks)}; wanted some of {STANDARD}, apgd-dlr, fab"
        )
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        ensemble = AutoAttack(
            # flat and back: the package takes views of gradients, which must not be channels last
            lambda some: model(some.flatten(1).unflatten(1, x.shape[1:])).float(),
            norm="Linf" if isinstance(norm, Linf) else "L2",
            eps=eps,
            seed=fold_seed(seed, "autoattack") % 2**31,
            device=x.device,
            version="standard",
        )
        ensemble.attacks_to_run = list(attacks)
        ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = min(9, classes - 1)
        found, _ = ensemble.run_standard_evaluation(x.contiguous(), y, batch_size=batch)
    return torch.as_tensor(found)

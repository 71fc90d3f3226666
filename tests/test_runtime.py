"""Seeds fold without collisions, devices and precision are what was asked for."""

import pytest
import torch

from dualrs_lab.runtime import describe, fold_seed, make_generator, pick_device, pick_dtype


def test_folding_gives_one_stream_a_question() -> None:
    paths = [(), (0,), (1,), (0, 0), ("a",), ("b",), ("a", 0), (0, "a"), ("a", "b"), ("ab",)]
    seeds = {fold_seed(seed, *path) for seed in (0, 1) for path in paths}
    assert len(seeds) == 2 * len(paths)
    assert fold_seed(3, "noise", 5) == fold_seed(3, "noise", 5)
    assert fold_seed(0, "noise", 5) == 3292129423812947702  # the same on every machine and in every process


def test_generators_repeat_and_leave_the_global_state_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = (torch.rand(4, generator=make_generator(1, "x")) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="got seed -1"):
        fold_seed(-1, "x")


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="'nonsense'"):
        pick_device("nonsense")
    assert pick_dtype(torch.device("cpu")) in (torch.float32, torch.bfloat16)
    told = describe(torch.device("cpu"))
    assert told["device"] == "cpu"
    assert str(told["instructions"]).startswith(torch.backends.cpu.get_cpu_capability())

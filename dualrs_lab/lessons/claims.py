"""`expect`: a claim of a notebook, checked where it must hold and judged where a reader explores.

And `available`: what a part of a notebook needs, or words that say that it is left out.
"""

import importlib
import os

import numpy as np

from dualrs_lab.settings import STRICT

__all__ = ["available", "expect"]


def expect(claim: str, holds: object) -> None:
    """Check a claim: `holds` is a truth value, or an array of them that must all be true.

    What holds is passed over in silence. In a run of the notebooks as they are (`make run`, CI), a claim that
    fails is an AssertionError. With other settings or other data it need not hold: then this says so, and the
    notebook goes on. Raises ValueError for a claim without words, and TypeError for what is neither true nor
    false.
    """
    if not claim.strip():
        raise ValueError("expect: got no claim; wanted a sentence that says what must hold")
    array = np.asarray(holds.cpu() if hasattr(holds, "cpu") else holds)
    if array.dtype != bool:
        raise TypeError(f"expect: {claim!r} is {array.dtype} {array.shape}; wanted true or false")
    held = bool(array.all())
    if not held and os.environ.get(STRICT) == "1":
        raise AssertionError(claim)
    if not held:
        wrong = f" ({int((~array).sum())} of {array.size})" if array.size > 1 else ""
        print(f"Does not hold with these settings{wrong}: {claim}")


def available(module: str, part: str) -> bool:
    """Whether a module can be imported; where it cannot, this says that `part` is left out."""
    try:
        importlib.import_module(module)
    except ImportError:
        print(f"There is no {module} here, so {part} is left out. Everything else runs without it.")
        return False
    return True

"""The face of a wing: its public names, each resolved when it is first asked for.

`from dualrs_lab.evidence import rs_radius` loads the room `evidence.radii` and nothing else, so that what
needs no torch starts without it. The stub `__init__.pyi` beside a wing's `__init__.py` is the one list of its
names: type checkers and editors read it, and so does `face`.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import lazy_loader

__all__ = ["face"]


class _Face(ModuleType):
    """A wing on which a public name wins over a room of the same name: `smoothing.certify` is the function.

    The import system binds each room that is loaded to its wing, whatever the wing says of that name.
    """

    __all__: list[str]

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in self.__all__):
            super().__setattr__(name, value)


def face(name: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of the wing `name`, whose `__init__.py` is `file`."""
    resolve, listed, names = lazy_loader.attach_stub(name, file)
    sys.modules[name].__class__ = _Face
    return resolve, listed, names

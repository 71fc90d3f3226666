"""Tasks: commands that go on when the notebook that started them is closed, and are found again later."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)

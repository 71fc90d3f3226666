"""What the lessons need and nothing else does: problems whose exact answers are known. No torch."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)

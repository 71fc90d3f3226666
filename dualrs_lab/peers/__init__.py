"""Published noise levels that depend on the input, beside ours: one certified, one that is no classifier."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)

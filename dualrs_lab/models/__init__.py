"""Networks: our architectures and published ones, and their checkpoints."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)

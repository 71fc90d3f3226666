"""What votes prove: exact bounds, radii, certificates and their tables. Nothing here imports torch."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)

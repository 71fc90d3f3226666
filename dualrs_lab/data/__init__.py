"""Data sets: 8-bit images at rest, by name, from image folders or from files of arrays."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)

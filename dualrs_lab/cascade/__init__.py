"""Cascades: the first smoothed expert that accepts a class answers, and silence does no harm."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)

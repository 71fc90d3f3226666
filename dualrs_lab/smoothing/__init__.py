"""Randomized smoothing: noise, the engine that counts votes, prediction and certification."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)

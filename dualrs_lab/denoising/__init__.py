"""Denoised smoothing: a denoiser in front of any classifier, which is then certified as one network."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)

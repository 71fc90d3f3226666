"""Mixes of an accurate and a robust classifier: fixed, adaptive, MixedNUTS, and what they certify."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)

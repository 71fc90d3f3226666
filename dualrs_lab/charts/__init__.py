"""Charts that people move without a kernel: tables in, pictures with sliders and rulers out."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)

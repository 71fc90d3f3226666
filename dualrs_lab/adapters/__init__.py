"""Anyone's network becomes one of ours: from a name, a file, a function or an address.

A wing of its own, above `models`: what comes from outside brings optional libraries and other people's
formats, which no room of `models` should know.
"""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)

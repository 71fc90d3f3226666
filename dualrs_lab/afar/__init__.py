"""Afar: files at addresses (`s3://…`, `hf://…`, `https://…`), read through a cache and sent whole."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)

"""DualRS Lab: the accuracy-robustness trade-off of image classifiers on one bench.

There is a wing for each thing it does, and the wing is the API: `from dualrs_lab.smoothing import certify`.
Three doors lead in from outside, `models`, `smoothing` and `pixels`; `evidence` holds what votes prove, and
`dual`, `cascade` and `mixing` the systems that are made of several networks. Within a method the rooms have
the same names: radii, certificate, certify, training, attack.
"""

__version__ = "0.2.0"

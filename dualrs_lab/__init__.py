"""DualRS Lab: the accuracy-robustness trade-off of image classifiers on one bench.

The module path is the API, for example `from dualrs_lab.smoothing import certify`:
`data` -> `models` -> `training` -> `sampling` -> `smoothing` -> `certificates` -> `plots`;
`bounds` holds the mathematics, `runner` runs the notebooks headless.
"""

__version__ = "0.1.0"

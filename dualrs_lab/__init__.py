"""DualRS Lab: the accuracy-robustness trade-off of image classifiers on one bench.

The front door: `import dualrs_lab as lab`, then `lab.certify(network, images, labels, sigma=0.25, seed=0)`
for any network and any images, `lab.predict`, `lab.diagnose`, `lab.read_table`, `lab.summary`, `lab.compare`.

Behind it there is a wing for each thing it does, and the wing is the API:
`from dualrs_lab.smoothing import certify`. Three doors lead in from outside, `models`, `smoothing` and
`pixels`; `evidence` holds what votes prove, and `dual`, `cascade` and `mixing` the systems that are made of
several networks. Within a method the rooms have the same names: radii, certificate, certify, training,
attack.
"""

from dualrs_lab.faces import face

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = face(__name__, __file__)

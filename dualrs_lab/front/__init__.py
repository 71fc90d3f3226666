"""The front door, as a newcomer uses it: `import dualrs_lab as lab`, then `lab.certify(network, images, …)`.

Anyone's network and anyone's images become what the wings take. Its face is the package itself: a name that a
wing has, too (`certify`, `predict`, `load_images`, `read_table`), does the same for more kinds of input.
"""

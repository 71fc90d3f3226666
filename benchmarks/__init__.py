"""How fast certification is here, against the loop of the textbook and the Adversarial Robustness Toolbox."""

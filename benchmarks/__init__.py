"""Speed and quality, each measured by a command, beside published code where there is some."""

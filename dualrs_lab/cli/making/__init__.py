"""Commands that make networks."""

"""Commands and options for work on several machines."""

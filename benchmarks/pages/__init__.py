"""Numbers for the pages under docs/, each read or computed from a table under data/."""

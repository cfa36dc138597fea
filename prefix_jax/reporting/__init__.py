"""Tables for the terminal, plots, and the page that a run directory explains itself with."""

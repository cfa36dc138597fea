"""Terminal tables, plots, and the HTML report of a run directory."""

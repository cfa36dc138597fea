"""The sections of `report.html`: pure functions of a run, `None` where the run has nothing for a section."""

"""One module for each form of task data: rows -> per-text records, in the order of the file."""

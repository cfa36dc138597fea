"""Data pipeline: rows of a task, records, token ids, packed batches."""

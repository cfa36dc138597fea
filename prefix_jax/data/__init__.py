"""Rows of a task -> records -> token ids -> packed batches."""

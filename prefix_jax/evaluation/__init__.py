"""Scoring of a run: early checks of scorers, and the files of scores and texts."""

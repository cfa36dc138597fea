"""What stands around the scores of a run: the scorers tried first, the files of scores and texts."""

"""A batch of cases to predict: which there are, which are done, and what became of each."""

"""Data sets and samplers whose randomness depends on the seed and the epoch alone."""

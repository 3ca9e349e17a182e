"""Volumes larger than memory: predicted, joined and counted block by block, as if they had been in memory."""

"""Measures as plain functions on numpy arrays, always called with (truth, prediction)."""

"""Sweeps: many trainings of one bundle, to find the settings that score best."""

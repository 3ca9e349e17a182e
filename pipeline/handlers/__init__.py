"""Ignite handlers: what happens around training and evaluation, one matter a file."""

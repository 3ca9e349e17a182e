"""The verbs of `python -m pipeline`: their arguments; what they do is elsewhere, imported when it is called."""

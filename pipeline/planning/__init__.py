"""A bundle's settings from what the data are and what the machine can do: facts, rules, a timing run, an overlay."""

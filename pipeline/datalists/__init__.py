"""Data lists: which file belongs to which case, split and fold, and whether the files hold what the list says."""

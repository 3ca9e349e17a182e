"""Runs side by side: statistics over cases, what differs between them, pictures and a page."""

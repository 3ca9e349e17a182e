"""Pages in a browser that need nothing but themselves: one file, no network."""

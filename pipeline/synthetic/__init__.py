"""Pictures made by formula, with exact labels: data for a demonstration that nobody has to download."""

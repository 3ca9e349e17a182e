"""Ways to predict an image that is larger than what a network sees at once."""

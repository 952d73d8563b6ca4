"""Files to arrays and back, and what a generator sees of a photo."""

"""Photos from files and back, and the views of them that generators see."""

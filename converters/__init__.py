"""PyTorch files to checkpoints and back: a table for each architecture, one strict engine."""

"""PyTorch files to checkpoints and back: one table per architecture, one strict engine."""

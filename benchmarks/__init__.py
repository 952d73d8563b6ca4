"""This package against plain PyTorch: the same weights, the same work."""

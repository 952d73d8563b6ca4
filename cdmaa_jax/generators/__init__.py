"""The generators under attack: architectures, their domains, and checkpoints on disk."""

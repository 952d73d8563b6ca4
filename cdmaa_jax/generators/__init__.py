"""What is attacked: architectures, their domains, and generators on disk."""

"""Figures that say how well photos are protected, and the reports of them."""

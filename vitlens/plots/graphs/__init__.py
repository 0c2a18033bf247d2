"""Figures about attribution graphs."""

"""Sentences about a picture, from the numbers that were measured of it; each part leads to the panel that shows it."""

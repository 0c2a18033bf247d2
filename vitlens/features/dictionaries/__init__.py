"""Dictionaries of features: sparse autoencoders, transcoders, cross-layer transcoders, and what follows their encoders."""

"""Embeddings of pictures as sums of few words (SpLiCE)."""

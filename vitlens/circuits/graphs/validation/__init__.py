"""Compares what attribution graphs predict of their units with what the model does."""

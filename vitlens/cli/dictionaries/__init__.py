"""Commands about dictionaries of features."""

"""Commands for models that were trained with text."""

"""Commands that find what carries a shortcut, and that repair it."""

"""Names of heads, neurons and features: the texts of a list that go with them, and what chance gives in their place."""

"""What a dictionary is worth: reconstruction, the model's answers, its features, and simple baselines."""

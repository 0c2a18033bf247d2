"""Training of dictionaries: the stream of activations, the losses, and a run that can be stopped and resumed."""

def save_checkpoint(model, path, *, like=None):
    raise NotImplementedError

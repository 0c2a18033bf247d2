def fold_changes(model, changes):
    raise NotImplementedError

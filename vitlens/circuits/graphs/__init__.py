"""Attribution graphs: which features made one decision, through which other features."""

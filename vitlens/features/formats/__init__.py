"""Files of dictionaries: what each library writes, read into the classes of vitlens; and what vitlens writes."""

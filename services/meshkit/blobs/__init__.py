"""Objects that are too big for a row, or too old, in a directory or an object store. They are sealed before."""

"""Groups what is concurrent, never what is sequential: no added wait when idle, batches appear under load."""

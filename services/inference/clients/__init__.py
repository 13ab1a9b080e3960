"""We call out: law and money."""

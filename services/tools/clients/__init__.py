"""We call out: law, money and the embedder."""

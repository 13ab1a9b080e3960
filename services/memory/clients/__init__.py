"""We call out: law and embeddings."""

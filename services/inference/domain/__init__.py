"""The rules of asking models: what a prompt may be, what it may cost at most, who may answer."""

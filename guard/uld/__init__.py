"""ULD: a small assistant model that remembers only what is to be forgotten (arXiv 2406.08607)."""

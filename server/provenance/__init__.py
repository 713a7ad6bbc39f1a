"""Corpora: registering documents, publishing their indexes, and judging answers by them."""

"""The thin adapters that run inside vLLM's processes."""

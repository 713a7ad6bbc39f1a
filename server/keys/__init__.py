"""API keys that an operator makes while the server runs: store, publication, scopes, limits."""

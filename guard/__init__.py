"""What to do about a request: decision, policy snapshot, token filter, output shield."""

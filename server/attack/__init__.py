"""The bypass suite: many ways round a guard, tried against a running server."""

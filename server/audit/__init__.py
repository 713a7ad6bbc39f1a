"""The audit: who did what to the guard, and what the guard did; ids and numbers, never a text."""

"""Evaluation on public data: what the detectors find, and what they take for something else."""

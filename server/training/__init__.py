"""Trainings of assistants (ULD) as jobs of the admin API, each in a process of its own."""

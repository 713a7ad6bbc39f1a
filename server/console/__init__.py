"""The Web console: the admin API for people, on the admin port."""

"""The dashboards: what each shows, why, and by which query. `generate.py` writes them as JSON."""

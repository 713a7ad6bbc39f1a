"""Every metric's name, labels and buckets; the only package that names one.

Registries are given, never global. Labels come from closed sets: no target, user or text. A value
outside its set is counted as "other" rather than lost or raised: this runs in the request path.
Every counter exists with all its labels from the start: Prometheus sees no increase in a series
that appears with its first event, so an alert would miss just that one.
"""

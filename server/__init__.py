"""The HTTP process and process life: the only package that knows HTTP, SQL and Prometheus."""

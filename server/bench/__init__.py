"""Benchmarks that are commands of the project: what the guard costs against plain vLLM."""

"""Composition root of the pipelines: `worker.main`."""

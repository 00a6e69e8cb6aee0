"""Steps with effects. Workflows see `signatures` and `options` only; implementations are built in `worker.main`."""

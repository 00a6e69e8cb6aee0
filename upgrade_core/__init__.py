"""The rules of upgrades: pure values and decisions.

What lives here computes and nothing else: no clock, no chance, no IO, no framework. Time, ids and facts come in as
arguments; decisions go out as values. `import-linter` holds this (see `pyproject.toml`).
"""

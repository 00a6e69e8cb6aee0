"""Measurements of a whole stack on this machine: `make bench`, or `python -m bench --help`."""

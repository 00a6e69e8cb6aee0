"""`mod-users`: who uses the library."""

"""Modules to try Uplift with: real HTTP services with real Postgres schemas, in several versions. See README.md."""

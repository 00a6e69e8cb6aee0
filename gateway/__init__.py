"""The platform's API (Okapi's routes) and the data path. Composition root: `gateway.main`."""

"""Lines with faults: proxies of the tests' own, between the parts of Uplift and the parts of others."""

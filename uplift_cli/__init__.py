"""The operator's command `uplift`, and the embedded stack behind `uplift up`."""

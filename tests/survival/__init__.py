"""Whatever is killed, at whatever moment: the run ends as it would have, and nothing is left over."""

"""A world without IO for the gateway's real code: a clock that is moved by hand, rows in memory, replicas that are run in steps.

Each replica has an event loop of its own, so that it can be late, stand still or die while others go on. All that decides is
the gateway's own: `Holds`, `Membership`, `Follower`, `Drains`, `RoutingTable`, `Pool`, `Parking`, `Proxy`. Stand-ins: the clock
(`clock.py`), rows (`world.py`, and `stores.py` as `gateway/store` has them), the connection to an instance (`replica.py`) and the
requester (`traffic.py`).
"""

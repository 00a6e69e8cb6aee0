"""gateway.pipelines: how soon a lost run is found (requirement D3)."""

from gateway.pipelines import LOOK_FOR_LOST_EVERY
from uplift_settings.tree import GatewaySettings


def test_a_hold_without_a_run_is_told_within_half_a_minute_by_default() -> None:
    """Two looks, each up to a sweep late, and the pause before problems are looked at; as much again for the calls."""
    settings = GatewaySettings()
    assert 2 * ((LOOK_FOR_LOST_EVERY + 1) * settings.sweep_interval) + settings.problems_settle <= 15

"""Timeouts and retries of activities, as data.

All of them heartbeat (`worker.beats`), so that a worker that dies is noticed within seconds (requirement D3). Those with effects
are waited for when they are cancelled.

No attempt limit stands where giving up would leave a tenant held: an undo is tried until it is done.
"""

from datetime import timedelta
from typing import TypedDict

from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType


class Options(TypedDict, total=False):
    """Keyword arguments of `workflow.execute_activity_method`."""

    start_to_close_timeout: timedelta
    schedule_to_close_timeout: timedelta
    heartbeat_timeout: timedelta
    retry_policy: RetryPolicy
    cancellation_type: ActivityCancellationType


_SOON = RetryPolicy(initial_interval=timedelta(milliseconds=200), backoff_coefficient=1.6, maximum_interval=timedelta(seconds=5))
_PATIENT = RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=2, maximum_interval=timedelta(minutes=1))
_WAIT = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
_DAY = timedelta(days=1)
_HARMLESS_TWICE = timedelta(seconds=5)
"""Heartbeat of steps that two attempts may do at once: how long users wait on for a worker that was killed."""

SHORT = Options(start_to_close_timeout=timedelta(seconds=30), heartbeat_timeout=_HARMLESS_TWICE, retry_policy=_SOON)
"""One call of the gateway. A gateway that is away is waited for, however long."""

CHECK = Options(
    start_to_close_timeout=timedelta(minutes=2),
    schedule_to_close_timeout=timedelta(minutes=10),
    heartbeat_timeout=_HARMLESS_TWICE,
    retry_policy=_SOON,
)
"""Looks before anybody is held: giving up costs nothing."""

ACQUIRE = Options(
    start_to_close_timeout=timedelta(hours=1),
    heartbeat_timeout=_HARMLESS_TWICE,
    retry_policy=_SOON,
    cancellation_type=_WAIT,
)
"""Deploying: bounded by `deploy.health_wait` where the instance starts, so that its error is the one that is told."""

UPDATE = Options(
    start_to_close_timeout=timedelta(hours=1),
    heartbeat_timeout=_HARMLESS_TWICE,
    retry_policy=_SOON,
    cancellation_type=_WAIT,
)
"""Draining: bounded by grace and settle at the gateway."""

RELEASE = Options(start_to_close_timeout=timedelta(hours=1), heartbeat_timeout=_HARMLESS_TWICE, retry_policy=_SOON)
"""Giving claims back: some calls for each change, and all modules of a platform may be one group."""

INIT = Options(
    start_to_close_timeout=14 * _DAY,
    heartbeat_timeout=timedelta(seconds=10),
    retry_policy=_SOON,
    cancellation_type=_WAIT,
)
"""Tenant init may take hours (requirement C4): only the loss of the worker ends an attempt, by its heartbeat."""

FOLLOW = Options(
    start_to_close_timeout=14 * _DAY,
    heartbeat_timeout=_HARMLESS_TWICE,
    retry_policy=_SOON,
    cancellation_type=_WAIT,
)
"""Looking at a tenant-init job: as INIT, noticed sooner when the worker dies, since users wait."""

COPY = Options(
    start_to_close_timeout=_DAY,
    heartbeat_timeout=timedelta(seconds=10),
    retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=5),
    cancellation_type=_WAIT,
)
"""Copying: a copy that fails five times is undone, since users wait."""

VERIFY = Options(
    start_to_close_timeout=timedelta(minutes=10),
    heartbeat_timeout=_HARMLESS_TWICE,
    retry_policy=_SOON,
    cancellation_type=_WAIT,
)
"""Checks: their own timeouts are in the settings."""

TELL = Options(
    start_to_close_timeout=timedelta(hours=1),
    heartbeat_timeout=_HARMLESS_TWICE,
    retry_policy=_SOON,
    cancellation_type=_WAIT,
)
"""Telling a permissions module: a module that does not answer is waited for within `permissions.retry`, since users wait."""

STEP = Options(
    start_to_close_timeout=14 * _DAY,
    heartbeat_timeout=_HARMLESS_TWICE,
    retry_policy=_SOON,
    cancellation_type=_WAIT,
)
"""Prechecks, post steps and their jobs: bounded by the settings `steps`."""

UNDO = Options(
    start_to_close_timeout=_DAY, heartbeat_timeout=timedelta(seconds=10), retry_policy=_PATIENT, cancellation_type=_WAIT
)
"""Undoing: tried until it is done."""

DEPLOY = Options(
    start_to_close_timeout=timedelta(hours=1),
    heartbeat_timeout=timedelta(seconds=10),
    retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30)),
    cancellation_type=_WAIT,
)
"""Starting and stopping instances on their node."""

TIMED = Options(start_to_close_timeout=timedelta(seconds=30), heartbeat_timeout=_HARMLESS_TWICE, retry_policy=_PATIENT)
"""Looks that nobody waits for."""


def node_look(seconds: float) -> Options:
    """A look at a node of a reconcile run: a node whose worker is away is told as silent, not waited for."""
    return Options(schedule_to_close_timeout=timedelta(seconds=seconds), retry_policy=_SOON)


COMPARE = Options(start_to_close_timeout=timedelta(minutes=2), heartbeat_timeout=_HARMLESS_TWICE, retry_policy=_PATIENT)
"""Comparing in a reconcile run: nobody waits for it."""

REPAIR = Options(
    start_to_close_timeout=timedelta(minutes=3),
    heartbeat_timeout=timedelta(seconds=10),
    retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3),
    cancellation_type=_WAIT,
)
"""A repair of a reconcile run: what cannot be repaired is told; the next run tries it again."""

REPAIR_ON_NODE = Options(
    start_to_close_timeout=timedelta(minutes=3),
    schedule_to_close_timeout=timedelta(minutes=4),
    heartbeat_timeout=timedelta(seconds=10),
    retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3),
    cancellation_type=_WAIT,
)
"""As REPAIR, on a node whose worker may have gone away meanwhile."""

"""The settings that a folder's stack chose by itself, for `uplift config`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from uplift_cli.stack.layout import MODULES_REFERENCE
from uplift_cli.stack.state import StackRecord
from uplift_cli.stack.temporal import HOST
from uplift_settings import Origin

SOURCE = "stack"
_UNSAID = ("0", "''")


def with_stack(origins: Sequence[Origin], record: StackRecord) -> tuple[Origin, ...]:
    """Settings as the parts of a stack have them.

    While it runs, its ports and addresses hold whatever is configured by now. One that was stopped only kept them: what is
    configured wins at the next start.

    Args:
        origins: The settings without the stack.
        record: What its folder remembers.
    """
    chosen, runs = _chosen(record), _runs(record)
    return tuple(
        replace(each, value=chosen[each.key], source=SOURCE)
        if each.key in chosen and (each.source == "default" or each.value in _UNSAID or _replaced(each.key, runs=runs))
        else each
        for each in origins
    )


def _replaced(key: str, *, runs: bool) -> bool:
    return runs and key not in ("data.dsn", "worker.gateway_url")  # a place of the operator's own is passed on


def _runs(record: StackRecord) -> bool:
    processes = (record.supervisor, *(part.process for part in record.parts))
    return any(process is not None and process.alive() for process in processes)


def _chosen(record: StackRecord) -> Mapping[str, str]:
    """Keys and values, as `explain` shows them."""
    ports = {
        "gateway.port": "gateway",
        "deploy.port_first": "modules_first",
        "deploy.port_last": "modules_last",
        "stack.postgres_port": "postgres",
        "stack.temporal_port": "temporal",
        "stack.ui_port": "ui",
    }
    addresses = {
        "data.dsn": MODULES_REFERENCE,
        "temporal.address": f"{HOST}:{record.ports['temporal']}" if "temporal" in record.ports else "",
        "temporal.ui_url": record.ui_url,
        "worker.gateway_url": record.url,
    }
    return {key: str(record.ports[name]) for key, name in ports.items() if name in record.ports} | {
        key: repr(value) for key, value in addresses.items() if value
    }

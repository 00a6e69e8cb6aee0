"""Requests, what reaches an instance of them, and holds as those see them who asked for them."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from multidict import CIMultiDict

from gateway.links import Exchange
from gateway.store import EVERY_TENANT

if TYPE_CHECKING:
    from .replica import Replica


@dataclass(eq=False)
class Asked:
    """A request, and what became of it."""

    number: int
    replica: "Replica"
    tenant: str
    product: str
    chain: str = ""
    aware: bool = False
    left: bool = False
    answer: str = ""
    place: tuple[object, int] | None = None
    arrivals: int = 0
    task: "asyncio.Task[Any] | None" = None
    method = "GET"
    body_exists = False
    content = SimpleNamespace(total_bytes=0, exception=lambda: None)

    def __post_init__(self) -> None:
        self.raw_path = f"/{self.product}"
        self.headers = CIMultiDict({"X-Okapi-Tenant": self.tenant})
        if self.chain:
            self.headers["X-Okapi-Request-Id"] = self.chain
        if self.aware:
            self.headers["X-Okapi-Lifecycle"] = "delay"
        self.transport = SimpleNamespace(is_closing=lambda: self.left, get_extra_info=lambda name: None, abort=lambda: None)


@dataclass(eq=False)
class Arrival:
    """A request that has reached an instance: `cut_at` is when its connection went without an answer."""

    asked: Asked
    exchange: Exchange
    ended: bool = False
    cut_at: float | None = None
    lapsed: bool = False
    result: "asyncio.Future[bool]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(eq=False)
class Standing:
    """A row of `holds`, and what its holder was told."""

    row: dict[str, Any]
    epoch: int
    returned: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.row["tenant"], self.row["product"]

    def covers(self, tenant: str, product: str) -> bool:
        return self.row["product"] == product and self.row["tenant"] in (tenant, EVERY_TENANT)

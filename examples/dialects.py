"""The three ways in which a gateway and a module speak about tenant init, as differences of names and shapes."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from examples.jobs import Job


class Dialect(StrEnum):
    """How tenant init is spoken.

    `async` is `_tenant` 2.0, `sync` is `_tenant` 1.2, `uplift` is `_tenantInit` 1.0.
    """

    ASYNC = "async"
    SYNC = "sync"
    UPLIFT = "uplift"

    def interface(self) -> dict[str, Any]:
        """The system interface as a descriptor's `provides` lists it."""
        version = {Dialect.ASYNC: ("_tenant", "2.0"), Dialect.SYNC: ("_tenant", "1.2")}
        name, number = version.get(self, ("_tenantInit", "1.0"))
        job = {"methods": ["GET", "DELETE"], "pathPattern": "/_/tenant/{id}"}
        handlers = {
            Dialect.ASYNC: [{"methods": ["POST"], "pathPattern": "/_/tenant"}, job],
            Dialect.SYNC: [
                {"methods": ["POST", "DELETE"], "pathPattern": "/_/tenant"},
                {"methods": ["POST"], "pathPattern": "/_/tenant/disable"},
            ],
            Dialect.UPLIFT: [{"methods": ["POST", "DELETE"], "pathPattern": "/_/tenant"}, job],
        }
        return {"id": name, "version": number, "interfaceType": "system", "handlers": handlers[self]}

    def job_body(self, job: Job, tenant: str) -> dict[str, Any]:
        """A job as this dialect shows it."""
        if self is not Dialect.UPLIFT:
            body = {"id": str(job.id), "tenant": tenant, "tenantAttributes": job.request, "complete": job.complete}
            if job.error is not None:
                body |= {"error": job.error, "messages": list(job.messages)}
            elif job.warnings:
                body["messages"] = list(job.warnings)
            return body
        status = "running" if not job.complete else "error" if job.error else "done"
        errors = [{"message": text} for text in (job.error, *job.messages) if text]
        return {
            "id": str(job.id),
            "status": status,
            "errors": errors,
            "warnings": [{"message": text} for text in job.warnings],
            "progress": job.progress,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRequest:
    """What a gateway asks for.

    Attributes:
        source: Version that the data is at; None: nothing is known of it.
        target: Wanted version; None: the tenant no longer uses the module.
        purge: Whether the data goes too.
        parameters: Tenant parameters by key.
        asynchronous: Whether a job may be the answer.
    """

    source: str | None
    target: str | None
    purge: bool
    parameters: Mapping[str, str]
    asynchronous: bool


def parse_init(body: Mapping[str, Any], *, dialect: Dialect, product: str, query_async: bool) -> InitRequest:
    """Read the body of a tenant init; versions may be whole module ids.

    Args:
        body: The request's JSON.
        dialect: Whose names to look for.
        product: The module's, for ids.
        query_async: Whether the URL asked for a job (`?async=true`, dialect `uplift`).
    """
    names = ("version_from", "version_to") if dialect is Dialect.UPLIFT else ("module_from", "module_to")
    source, target = (str(body.get(name) or "").removeprefix(f"{product}-") or None for name in names)
    parameters = {str(item["key"]): str(item.get("value", "")) for item in body.get("parameters") or ()}
    by_choice = query_async or parameters.get("async") == "true"
    return InitRequest(
        source=source,
        target=target,
        purge=body.get("purge") is True,
        parameters=parameters,
        asynchronous=dialect is Dialect.ASYNC or (dialect is Dialect.UPLIFT and by_choice),
    )


__all__ = ["Dialect", "InitRequest", "parse_init"]

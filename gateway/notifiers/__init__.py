"""Notifiers by name: ours, and those of other distributions (entry-point group `uplift.notifiers`).

An entry point leads to a callable that takes the gateway's settings and gives a `Notifier`.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from urllib.parse import urlsplit

from gateway.notifiers.base import Notification, Notifier
from gateway.notifiers.log import LogNotifier
from gateway.notifiers.webhook import WebhookNotifier
from uplift_settings import SettingsError, read_secret
from uplift_settings.tree import GatewaySettings

__all__ = ["GROUP", "Notification", "Notifier", "load_notifiers"]

GROUP = "uplift.notifiers"


def load_notifiers(settings: GatewaySettings) -> dict[str, Notifier]:
    """The notifiers that `gateway.notifiers` names.

    Raises:
        SettingsError: One is not there or cannot be made.
        SecretError: A reference points nowhere.
    """
    found: dict[str, EntryPoint] = {}
    if any(name not in _OURS for name in settings.notifiers):
        found = {entry.name: entry for entry in entry_points(group=GROUP)}
    return {name: _make(name, settings, found) for name in settings.notifiers}


def _make(name: str, settings: GatewaySettings, others: Mapping[str, EntryPoint]) -> Notifier:
    if name in _OURS:
        return _OURS[name](settings)
    if name not in others:
        there = ", ".join(sorted({*_OURS, *others}))
        raise SettingsError(
            f"gateway.notifiers: no notifier {name}; there are {there}."
            f" Install the distribution that has it (entry-point group {GROUP}), or take it out"
        )
    try:
        made: Notifier = others[name].load()(settings)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        raise SettingsError(f"gateway.notifiers: {name} ({others[name].value}) cannot be made: {text}") from error
    return made


def _log(settings: GatewaySettings) -> Notifier:
    del settings
    return LogNotifier()


def _webhook(settings: GatewaySettings) -> Notifier:
    url = read_secret(settings.webhook_url, what="gateway.webhook_url") if settings.webhook_url else ""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError("gateway.webhook_url: the notifier webhook needs an http or https URL, plain or by reference")
    secret = read_secret(settings.webhook_secret, what="gateway.webhook_secret") if settings.webhook_secret else ""
    return WebhookNotifier(url=url, secret=secret, timeout=settings.notify_timeout)


_OURS: dict[str, Callable[[GatewaySettings], Notifier]] = {"log": _log, "webhook": _webhook}

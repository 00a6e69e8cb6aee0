"""TLS: to requesters with our own certificate, to instances with a look at theirs."""

import ssl
from functools import lru_cache

from uplift_settings.load import SettingsError
from uplift_settings.tree import GatewaySettings


def requesters_tls(settings: GatewaySettings) -> ssl.SSLContext | None:
    """What the gateway shows to requesters; None: it speaks HTTP without TLS.

    Raises:
        SettingsError: The certificate or its key cannot be used. The message names the setting.
    """
    if not settings.tls_cert_file:
        if settings.tls_key_file:
            raise SettingsError("gateway.tls_key_file is set without gateway.tls_cert_file")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"gateway.tls_cert_file, gateway.tls_key_file cannot be used: {error}") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


@lru_cache(maxsize=8)
def _trusting(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"gateway.instances_ca_file {ca_file} cannot be used: {error}") from error


def instances_tls(settings: GatewaySettings) -> ssl.SSLContext:
    """Whose certificates instances may show: those of the system's authorities, or of `gateway.instances_ca_file`.

    Raises:
        SettingsError: The file cannot be used.
    """
    return _trusting(settings.instances_ca_file)

"""One address for two clients: asyncpg takes a URI, libpq's tools take `PG*` environment variables.

The password never reaches a command line, where every user of the machine could read it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

_LIBPQ = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "passfile": "PGPASSFILE",
    "sslmode": "PGSSLMODE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "channel_binding": "PGCHANNELBINDING",
    "gssencmode": "PGGSSENCMODE",
    "krbsrvname": "PGKRBSRVNAME",
    "options": "PGOPTIONS",
}
# asyncpg sends a parameter that it does not know to the server, which then refuses the connection.
_ASYNCPG = frozenset(_LIBPQ) - {"sslnegotiation", "connect_timeout", "channel_binding", "gssencmode"}
# Inherited, these would win over the address or change what the tools write.
_STRANGERS = ("PGSERVICE", "PGSERVICEFILE", "PGHOSTADDR", "PGCLIENTENCODING", "PGOPTIONS", "PGDATESTYLE", "PGTZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A database's address.

    Attributes:
        dsn: For asyncpg; holds the password, so it is not shown.
        variables: For libpq's tools, `PG*`; as above.
        shown: What may be logged: where, and which database.
    """

    dsn: str = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)
    shown: str

    def environment(self, *, application: str) -> dict[str, str]:
        """The environment of a tool: ours, with the address and the name that `pg_stat_activity` will show."""
        inherited = {name: value for name, value in os.environ.items() if name not in _STRANGERS}
        return {**inherited, **self.variables, "PGAPPNAME": application, "LC_ALL": "C"}


def parse_address(dsn: str) -> Address:
    """Reads `postgresql://user:password@host:port/database?…`, also with `?host=/socket/folder` and several hosts.

    Raises:
        ValueError: It is no such URI. The message does not repeat it.
    """
    parts = urlsplit(dsn)
    if parts.scheme not in {"postgresql", "postgres"}:
        raise ValueError("The address of the modules' data must be a URI: postgresql://user@host:port/database")
    found: dict[str, str] = {}
    credentials, _, places = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    hosts: list[str] = []
    ports: list[str] = []
    for place in filter(None, places.split(",")):
        host, port = _host_and_port(place)
        hosts.append(host)
        ports.append(port)
    found["host"] = ",".join(hosts)
    found["port"] = ",".join(ports) if any(ports) else ""
    found["user"] = unquote(user)
    found["password"] = unquote(password)
    found["dbname"] = unquote(parts.path.removeprefix("/"))
    extra = dict(parse_qsl(parts.query))
    if "database" in extra:
        extra["dbname"] = extra.pop("database")
    found |= extra
    known = {name: value for name, value in found.items() if value and name in _LIBPQ}
    kept = {name: value for name, value in extra.items() if name in _ASYNCPG}
    authority = f"{credentials}@{places}" if credentials else places
    return Address(
        dsn=f"postgresql://{authority}{parts.path}" + (f"?{urlencode(kept, quote_via=quote)}" if kept else ""),
        variables={_LIBPQ[name]: value for name, value in known.items()},
        shown=f"{known.get('host', 'the local socket')}:{known.get('port', '5432')}/{known.get('dbname', '')}",
    )


def _host_and_port(place: str) -> tuple[str, str]:
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        return host, rest.removeprefix(":")
    host, _, port = place.partition(":")
    return unquote(host), port

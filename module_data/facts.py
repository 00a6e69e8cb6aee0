"""What can be seen of a schema with SQL: whether it is there, its size, who works in it, and what a copy would lose."""

from collections.abc import Iterable
from typing import TypeAlias

import asyncpg

from module_data.base import Session

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_NAMED = 5
_SYSTEM = ("pg_catalog", "information_schema", "pg_toast")

_EXISTS = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)"

_SIZE = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'm', 'S')
"""

# A table that is not committed yet cannot be seen, but who makes one keeps a lock on the schema itself.
_SESSIONS = """
SELECT DISTINCT
    coalesce(l.pid, 0) AS pid,
    coalesce(a.application_name, '') AS application,
    CASE WHEN l.pid IS NULL THEN 'prepared transaction' ELSE coalesce(a.state, '') END AS state,
    coalesce(left(a.query, 200), '') AS query,
    coalesce(a.backend_type, '') AS kind
FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.pid IS NULL OR l.pid <> pg_backend_pid())
  AND (l.granted OR NOT $2)
  AND (
    l.relation IN (
        SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1)
    OR (l.locktype = 'object' AND l.classid = 'pg_namespace'::regclass
        AND l.objid = (SELECT oid FROM pg_namespace WHERE nspname = $1))
  )
ORDER BY 1
"""

# A copy holds grants as what differs from those that a schema was born with; a schema that is made anew has none of them.
_BORN_WITH_GRANTS = """
SELECT nspname AS name FROM pg_namespace n
JOIN pg_init_privs p ON p.objoid = n.oid AND p.classoid = 'pg_namespace'::regclass
WHERE nspname = $1
"""

# The schema of whatever pg_depend can name; parts of a table or of an operator family are where their owner is.
_PLACES = """
WITH places (classid, objid, nsp) AS (
    SELECT 'pg_class'::regclass, oid, relnamespace FROM pg_class
    UNION ALL SELECT 'pg_proc'::regclass, oid, pronamespace FROM pg_proc
    UNION ALL SELECT 'pg_type'::regclass, oid, typnamespace FROM pg_type
    UNION ALL SELECT 'pg_constraint'::regclass, oid, connamespace FROM pg_constraint
    UNION ALL SELECT 'pg_operator'::regclass, oid, oprnamespace FROM pg_operator
    UNION ALL SELECT 'pg_opclass'::regclass, oid, opcnamespace FROM pg_opclass
    UNION ALL SELECT 'pg_opfamily'::regclass, oid, opfnamespace FROM pg_opfamily
    UNION ALL SELECT 'pg_amop'::regclass, a.oid, opfnamespace FROM pg_amop a JOIN pg_opfamily f ON f.oid = amopfamily
    UNION ALL SELECT 'pg_amproc'::regclass, a.oid, opfnamespace FROM pg_amproc a JOIN pg_opfamily f ON f.oid = amprocfamily
    UNION ALL SELECT 'pg_collation'::regclass, oid, collnamespace FROM pg_collation
    UNION ALL SELECT 'pg_conversion'::regclass, oid, connamespace FROM pg_conversion
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxnamespace FROM pg_statistic_ext
    UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgnamespace FROM pg_ts_config
    UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictnamespace FROM pg_ts_dict
    UNION ALL SELECT 'pg_ts_parser'::regclass, oid, prsnamespace FROM pg_ts_parser
    UNION ALL SELECT 'pg_ts_template'::regclass, oid, tmplnamespace FROM pg_ts_template
    UNION ALL SELECT 'pg_attrdef'::regclass, d.oid, relnamespace FROM pg_attrdef d JOIN pg_class c ON c.oid = adrelid
    UNION ALL SELECT 'pg_rewrite'::regclass, r.oid, relnamespace FROM pg_rewrite r JOIN pg_class c ON c.oid = ev_class
    UNION ALL SELECT 'pg_trigger'::regclass, t.oid, relnamespace FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
    UNION ALL SELECT 'pg_policy'::regclass, p.oid, relnamespace FROM pg_policy p JOIN pg_class c ON c.oid = polrelid
)
"""

_DEPENDENTS = (
    _PLACES
    + """
SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) AS name
FROM pg_depend d
JOIN places inside ON inside.classid = d.refclassid AND inside.objid = d.refobjid
JOIN pg_namespace n ON n.oid = inside.nsp AND n.nspname = $1
LEFT JOIN places o ON o.classid = d.classid AND o.objid = d.objid
WHERE d.deptype IN ('n', 'a') AND o.nsp IS DISTINCT FROM n.oid
  AND d.classid <> ALL (ARRAY['pg_publication_rel'::regclass::oid, 'pg_extension'::regclass::oid])
  AND NOT EXISTS (
    SELECT FROM pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e')
ORDER BY 1
"""
)

_EXTENSIONS = (
    _PLACES
    + """
SELECT extname AS name FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE n.nspname = $1
UNION
SELECT e.extname FROM pg_depend d
JOIN places p ON p.classid = d.classid AND p.objid = d.objid
JOIN pg_namespace n ON n.oid = p.nsp AND n.nspname = $1
JOIN pg_extension e ON e.oid = d.refobjid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
ORDER BY 1
"""
)

_PUBLICATIONS = """
SELECT p.pubname || ' (' || c.relname || ')' AS name
FROM pg_publication_rel r
JOIN pg_publication p ON p.oid = r.prpubid
JOIN pg_class c ON c.oid = r.prrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1
ORDER BY 1
"""

_PUBLISHED_SCHEMA = """
SELECT p.pubname AS name FROM pg_publication_namespace s
JOIN pg_publication p ON p.oid = s.pnpubid
JOIN pg_namespace n ON n.oid = s.pnnspid
WHERE n.nspname = $1
ORDER BY 1
"""
_PUBLISHED_SCHEMA_SINCE = 15

_LARGE_OBJECTS = """
SELECT c.relname || '.' || a.attname AS name
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid
WHERE n.nspname = $1 AND c.relkind IN ('r', 'm', 'p') AND a.attnum > 0 AND NOT a.attisdropped
  AND (t.oid = 'oid'::regtype OR t.typbasetype = 'oid'::regtype)
  AND EXISTS (SELECT FROM pg_largeobject_metadata)
ORDER BY 1
"""

_FOREIGN_OWNERS = """
SELECT DISTINCT pg_get_userbyid(owner) AS name FROM (
    SELECT nspowner, oid FROM pg_namespace
    UNION ALL SELECT relowner, relnamespace FROM pg_class
    UNION ALL SELECT proowner, pronamespace FROM pg_proc
    UNION ALL SELECT typowner, typnamespace FROM pg_type
) AS owned (owner, nsp)
JOIN pg_namespace n ON n.oid = owned.nsp
WHERE n.nspname = $1 AND NOT pg_has_role(owner, 'MEMBER')
ORDER BY 1
"""


async def exists(connection: Connection, schema: str) -> bool:
    """Whether the schema is there."""
    return bool(await connection.fetchval(_EXISTS, schema))


async def size(connection: Connection, schema: str) -> int:
    """Bytes of its relations with indexes and TOAST."""
    return int(await connection.fetchval(_SIZE, schema))


async def sessions(connection: Connection, schema: str, *, but: Iterable[str] = (), granted: bool = False) -> tuple[Session, ...]:
    """Sessions with locks in the schema, and prepared transactions (pid 0), in order of their pids.

    Autovacuum does not count: it writes nothing, and gives way by itself.

    Args:
        connection: A connection; its own session is left out.
        schema: The schema's name.
        but: Application names to leave out.
        granted: Only those that have a lock, not those that wait for one.
    """
    rows = await connection.fetch(_SESSIONS, schema, granted)
    skipped = set(but)
    return tuple(
        Session(pid=row["pid"], application=row["application"], state=row["state"], query=row["query"])
        for row in rows
        if row["kind"] != "autovacuum worker" and (row["pid"] == 0 or row["application"] not in skipped)
    )


async def lost_on_drop(connection: Connection, schema: str) -> tuple[str, ...]:
    """What lies outside the schema and would go with it, never to come back with a copy; a sentence each."""
    found: list[str] = []
    if names := await _names(connection, _DEPENDENTS, schema):
        found.append(f"Objects outside schema {schema} depend on it and would be dropped with it: {names}.")
    if names := await _names(connection, _PUBLICATIONS, schema):
        found.append(f"Publications name tables of schema {schema} and would lose them: {names}.")
    if connection.get_server_version().major >= _PUBLISHED_SCHEMA_SINCE and (
        names := await _names(connection, _PUBLISHED_SCHEMA, schema)
    ):
        found.append(f"Publications name schema {schema} and would lose it: {names}.")
    return tuple(found)


async def not_in_copy(connection: Connection, schema: str) -> tuple[str, ...]:
    """What a copy of the schema would leave out, or could not bring back; a sentence each."""
    if schema in _SYSTEM or schema.startswith(("pg_temp_", "pg_toast_temp_")):
        return (f"Schema {schema} belongs to Postgres itself.",)
    found: list[str] = []
    if await _names(connection, _BORN_WITH_GRANTS, schema):
        found.append(f"Schema {schema} came with Postgres, and a copy leaves its first grants out.")
    if names := await _names(connection, _EXTENSIONS, schema):
        found.append(f"Extensions are installed in schema {schema}, and a copy leaves them out: {names}.")
    if names := await _names(connection, _LARGE_OBJECTS, schema):
        found.append(f"Columns of schema {schema} may point to large objects, which a copy leaves out: {names}.")
    if names := await _names(connection, _FOREIGN_OWNERS, schema):
        found.append(
            f"Objects of schema {schema} belong to roles that we are no member of, so they could not be given back: {names}."
        )
    if not await connection.fetchval("SELECT has_database_privilege(current_database(), 'CREATE')"):
        found.append(f"Our role may not create schemas in this database, so schema {schema} could not be put back.")
    return tuple(found)


async def _names(connection: Connection, query: str, schema: str) -> str:
    """The first few names that a query finds, and how many more there are; empty for none."""
    names = [str(row["name"]) for row in await connection.fetch(query, schema)]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more

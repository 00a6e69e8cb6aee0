"""The modules' own data in Postgres: what can be seen of a schema, copies of it, and putting a copy back.

No Temporal inside, and nothing of the gateway's database. Addresses come in as resolved DSNs; they are never logged.

```
ModuleDataError
├── CopyRefused      a copy would not be whole; the message lists every reason
├── ToolsMissing     pg_dump, pg_restore or psql is missing, or older than the server
├── CopyFailed       the copy could not be taken; nothing was changed
└── RestoreFailed    the schema is as it was before the attempt (one transaction), or differs from the copy afterwards
```
"""

from module_data.base import (
    CopyFailed,
    CopyRefused,
    ModuleDataError,
    RestoreFailed,
    SchemaCopy,
    SchemaFacts,
    Session,
    ToolsMissing,
)
from module_data.postgres import PostgresData

__all__ = [
    "CopyFailed",
    "CopyRefused",
    "ModuleDataError",
    "PostgresData",
    "RestoreFailed",
    "SchemaCopy",
    "SchemaFacts",
    "Session",
    "ToolsMissing",
]

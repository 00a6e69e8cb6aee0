"""How the table of users changed over time."""

from examples.releases import Change, Fault, Step

_WHOLE = "first_name || coalesce(' ' || last_name, '')"
_FIRST_TO_LAST = (
    "first_name = split_part(name, ' ', 1), "
    "last_name = CASE WHEN name LIKE '% %' THEN substr(name, position(' ' in name) + 1) END"
)

CREATE = Step(
    version="1.0.0",
    forward=Change(
        finish="""
        CREATE TABLE IF NOT EXISTS {schema}.users (
            id uuid PRIMARY KEY,
            name text NOT NULL,
            seq bigint,
            written_at timestamptz NOT NULL DEFAULT now()
        )
        """
    ),
    backward=Change(),
)

EMAIL = Step(
    version="1.1.0",
    forward=Change(finish="ALTER TABLE {schema}.users ADD COLUMN IF NOT EXISTS email text"),
    backward=Change(finish="ALTER TABLE {schema}.users DROP COLUMN IF EXISTS email"),
)

# A name is split at its first blank, and nothing is lost: the reverse gives the very same text. Rows are compared, not
# marked as done, so that what the old version wrote into a half changed schema is not taken for converted.
SPLIT_NAME = Step(
    version="2.0.0",
    forward=Change(
        prepare="""
        ALTER TABLE {schema}.users
            ADD COLUMN IF NOT EXISTS first_name text, ADD COLUMN IF NOT EXISTS last_name text
        """,
        assign=_FIRST_TO_LAST,
        rows=f"name IS NOT NULL AND name IS DISTINCT FROM {_WHOLE}",
        finish="ALTER TABLE {schema}.users ALTER COLUMN first_name SET NOT NULL, DROP COLUMN name",
        doubtful="last_name IS NULL",
        doubt="user(s) have one name only, taken as the first name",
        uses_up="name",
    ),
    backward=Change(
        prepare="ALTER TABLE {schema}.users ADD COLUMN IF NOT EXISTS name text",
        assign=f"name = {_WHOLE}",
        rows=f"first_name IS NOT NULL AND name IS DISTINCT FROM {_WHOLE}",
        finish="""
        ALTER TABLE {schema}.users ALTER COLUMN name SET NOT NULL, DROP COLUMN first_name, DROP COLUMN last_name
        """,
        uses_up="first_name",
    ),
)

INDEX = Step(
    version="2.1.0",
    forward=Change(
        finish="CREATE INDEX IF NOT EXISTS users_by_name ON {schema}.users (last_name, first_name)",
    ),
    backward=Change(finish="DROP INDEX IF EXISTS {schema}.users_by_name"),
)

# Fails on purpose after half of the rows: those have lost first_name and last_name.
ONE_COLUMN = Step(
    version="3.0.0",
    forward=Change(
        prepare="""
        ALTER TABLE {schema}.users ADD COLUMN IF NOT EXISTS names jsonb, ALTER COLUMN first_name DROP NOT NULL
        """,
        assign="names = jsonb_build_object('first', first_name, 'last', last_name), first_name = NULL, last_name = NULL",
        rows="first_name IS NOT NULL",
        fault=Fault.HALF,
    ),
    backward=Change(
        assign="first_name = names->>'first', last_name = names->>'last'",
        rows="first_name IS NULL",
        finish="ALTER TABLE {schema}.users ALTER COLUMN first_name SET NOT NULL, DROP COLUMN names",
        uses_up="names",
    ),
)

ENDLESS = Step(
    version="4.0.0",
    forward=Change(prepare="ALTER TABLE {schema}.users ADD COLUMN IF NOT EXISTS nickname text", fault=Fault.HANG),
    backward=Change(finish="ALTER TABLE {schema}.users DROP COLUMN IF EXISTS nickname"),
)

__all__ = ["CREATE", "EMAIL", "ENDLESS", "INDEX", "ONE_COLUMN", "SPLIT_NAME"]

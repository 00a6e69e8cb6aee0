"""Secrets of instances, by digest."""

from gateway.store.database import Database


class CredentialStore:
    """Which instance has which secret. There is one per instance: a new one takes the former's place."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, *, instance: str, module: str, digest: bytes) -> None:
        """Give an instance a secret; the former is not known any more."""
        async with self._database.connection() as connection:
            await connection.execute(
                "insert into instance_secrets (instance, module, hash) values ($1, $2, $3)"
                " on conflict (instance) do update set module = excluded.module, hash = excluded.hash, issued = now()",
                instance, module, digest,
            )  # fmt: skip

    async def instance_of(self, digest: bytes) -> tuple[str, str] | None:
        """The (module, instance) that has a secret."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow("select module, instance from instance_secrets where hash = $1", digest)
        return None if row is None else (row["module"], row["instance"])

    async def forget(self, module: str, instance: str | None = None) -> None:
        """Forget the secret of an instance of a module, or of all of them."""
        async with self._database.connection() as connection:
            await connection.execute(
                "delete from instance_secrets where module = $1 and ($2::text is null or instance = $2)", module, instance
            )

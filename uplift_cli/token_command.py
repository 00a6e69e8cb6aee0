"""`uplift token`: the tokens file of the gateway (`gateway.tokens_file`)."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
from pydantic import ValidationError

from gateway.credentials import MEANINGS, TOKEN_PREFIX, Entry, Role, digest, new_token, read_tokens, write_tokens
from uplift_cli.errors import UpliftError
from uplift_cli.options import config_option
from uplift_cli.tables import print_table
from uplift_settings import load

_file_option = click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The tokens file.  [default: the setting `gateway.tokens_file`]",
)


class TokenRefused(UpliftError):
    """The tokens file cannot be changed as asked; it is as it was."""


@click.group()
def token() -> None:
    """Make, list and revoke tokens of the gateway's admin API.

    They are kept by digest in the file that the setting `gateway.tokens_file` names. The gateway reads it again within a second
    when it changed: no restart is needed.
    """


def _roles() -> str:
    return "\b\nRoles:\n" + "\n".join(f"  {role:<9} {meaning}" for role, meaning in MEANINGS.items())


@token.command(epilog=_roles())
@click.argument("name")
@click.option(
    "--role",
    "roles",
    type=click.Choice([role.value for role in Role]),
    multiple=True,
    required=True,
    help="What it is for; may be given more than once.",
)
@click.option("--product", "products", multiple=True, help="Limit signals and registrations to a product; again for more.")
@_file_option
@config_option
def add(name: str, roles: tuple[str, ...], products: tuple[str, ...], file: Path | None, config: Path | None) -> None:
    """Make a token called NAME and print it. It is not kept and cannot be shown again.

    NAME stands in jobs and in the gateway's log.
    """
    path = _path(file, config)
    secret = new_token(TOKEN_PREFIX)
    wanted = [role for role in Role if role in roles]
    try:
        entry = Entry.model_validate(
            {"name": name, "sha256": digest(secret).hex(), "roles": wanted, "products": list(dict.fromkeys(products)) or None}
        )
    except ValidationError as error:
        raise TokenRefused("; ".join(_fault(item["loc"], item["msg"]) for item in error.errors())) from error
    with _locked(path):
        entries = read_tokens(path) if path.exists() else ()
        if any(known.name == name for known in entries):
            raise TokenRefused(f"there is a token {name} already in {path}: choose another name, or `uplift token remove {name}`")
        _replace(path, write_tokens((*entries, entry)))
    click.echo(secret)
    click.echo(f"token {name} is in {path} by its digest; this is the only time that it is shown", err=True)


@token.command(name="list")
@_file_option
@config_option
def list_(file: Path | None, config: Path | None) -> None:
    """List the tokens' names, roles and products."""
    print_table(
        ("name", "roles", "products"),
        ((each.name, ",".join(each.roles), ",".join(each.products or ()) or "-") for each in read_tokens(_path(file, config))),
    )


@token.command()
@click.argument("name")
@_file_option
@config_option
def remove(name: str, file: Path | None, config: Path | None) -> None:
    """Revoke the token called NAME: the gateway refuses it within a second."""
    path = _path(file, config)
    with _locked(path):
        entries = read_tokens(path)
        left = tuple(entry for entry in entries if entry.name != name)
        if len(left) == len(entries):
            raise TokenRefused(f"there is no token {name} in {path}; `uplift token list` shows them")
        _replace(path, write_tokens(left))
    click.echo(f"token {name} is removed from {path}", err=True)


def _path(file: Path | None, config: Path | None) -> Path:
    named = file or load(config=config).gateway.tokens_file
    if not named:
        raise TokenRefused("which file? Set gateway.tokens_file, so that the gateway knows it too, or give --file")
    # not through a symbolic link: what it points to is replaced, not the link
    return Path(named).expanduser().resolve()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other `uplift token` out of the folder until the file is written."""
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(path: Path, text: str) -> None:
    """Write the file, for its owner only: after a crash at any moment the old or the new one is there, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            with contextlib.suppress(FileNotFoundError):
                before = path.stat()
                if (before.st_uid, before.st_gid) != (os.getuid(), os.getgid()):  # root writes for the gateway's user
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _fault(where: tuple[int | str, ...], text: str) -> str:
    words = ".".join(str(part) for part in where)
    return f"{words}: {text}" if words else text

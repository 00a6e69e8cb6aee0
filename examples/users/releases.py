"""The releases of mod-users; README.md says what each is for."""

from dataclasses import dataclass

from examples.releases import Module, Release
from examples.users.schema import CREATE, EMAIL, ENDLESS, INDEX, ONE_COLUMN, SPLIT_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class UsersRelease(Release):
    """A release of mod-users.

    Attributes:
        has_email: Whether users have an e-mail address.
        splits_names: Whether names are kept as first and last name.
        breaks_count: Whether `/users/count` fails, so that the check after init does.
    """

    has_email: bool = True
    splits_names: bool = True
    breaks_count: bool = False


_UP_TO_2_1 = (CREATE, EMAIL, SPLIT_NAME, INDEX)

_RELEASES = (
    UsersRelease(version="1.0.0", steps=(CREATE,), has_email=False, splits_names=False),
    UsersRelease(version="1.1.0", steps=(CREATE, EMAIL), splits_names=False),
    UsersRelease(version="2.0.0", steps=(CREATE, EMAIL, SPLIT_NAME), interface="1.1"),
    UsersRelease(version="2.1.0", steps=_UP_TO_2_1, interface="1.1"),
    UsersRelease(version="2.2.0", steps=_UP_TO_2_1, interface="1.1", breaks_count=True),
    UsersRelease(version="3.0.0", steps=(*_UP_TO_2_1, ONE_COLUMN), interface="1.1", rerunnable=False),
    UsersRelease(version="4.0.0", steps=(*_UP_TO_2_1, ENDLESS), interface="1.1", rerunnable=False),
)

MOD_USERS = Module(product="mod-users", table="users", releases={release.version: release for release in _RELEASES})

__all__ = ["MOD_USERS", "UsersRelease"]

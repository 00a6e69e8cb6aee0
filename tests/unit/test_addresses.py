"""Addresses of instances: what a registered URL names, and what is refused."""

import pytest

from upgrade_core.addresses import BadAddress, parse_address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://mod:8081", ("mod", 8081, "", False, "", "mod:8081")),
        ("http://mod", ("mod", 80, "", False, "", "mod")),
        ("https://mod", ("mod", 443, "", True, "", "mod")),
        ("http://[::1]:9/base/", ("::1", 9, "", False, "/base", "[::1]:9")),
        ("http://user:secret@mod:8081/base", ("mod", 8081, "", False, "/base", "mod:8081")),
        ("http+unix://%2Frun%2Fa%20b.sock/base", ("", 0, "/run/a b.sock", False, "/base", "localhost")),
    ],
)
def test_what_a_url_names(url: str, expected: tuple[object, ...]) -> None:
    found = parse_address(url)
    assert (found.host, found.port, found.socket, found.tls, found.prefix, found.authority) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mod:8081",
        "ftp://mod",
        "http://",
        "http://:8081",
        "http://mod:0",
        "http://mod:x",
        "http://mod:70000",
        "http://mod/?a=1",
        "http://mod/#a",
        "http://mod /",
        "http://möd",
        "http://mod\n",
        "http://[::1",
        "http+unix://",
        "http+unix://run%2Fmod.sock",
    ],
)
def test_what_names_no_instance_is_refused(url: str) -> None:
    with pytest.raises(BadAddress, match="address"):
        parse_address(url)

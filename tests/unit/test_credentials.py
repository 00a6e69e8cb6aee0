"""Who may call what: roles, the tokens file, signals. `uplift token` writes what the gateway reads."""

import asyncio
import logging
import os
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.admin.routes import ROUTES, find
from gateway.credentials import (
    ANYBODY,
    MEANINGS,
    NOBODY,
    Caller,
    Credentials,
    Entry,
    Need,
    Role,
    TokensFile,
    TokensFileError,
    bearer,
    digest,
    may_signal,
    new_token,
    read_tokens,
    write_tokens,
)
from uplift_cli.main import cli
from uplift_settings import SettingsError, load

READER = Caller(name="reader", roles=(Role.READ,))


def entry(name: str, token: str, *roles: Role, products: tuple[str, ...] | None = None) -> Entry:
    return Entry(name=name, sha256=digest(token).hex(), roles=roles, products=products)


def written(path: Path, *entries: Entry) -> Path:
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(write_tokens(entries))
    return fresh.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


# what a caller may do


def test_a_route_lets_in_whoever_has_one_of_its_roles() -> None:
    need = Need(roles=(Role.READ, Role.RUN))
    assert need.allows(READER, {}, {})
    assert not need.allows(Caller(name="x", roles=(Role.START,)), {}, {})
    assert not need.allows(NOBODY, {}, {})
    assert need.allows(ANYBODY, {}, {})


def test_a_route_without_roles_lets_everybody_in() -> None:
    assert Need().allows(NOBODY, {}, {})


@pytest.mark.parametrize(
    ("query", "allowed"),
    [
        ({"simulate": "true"}, True),
        ({"dryRun": "true"}, True),
        ({"simulate": "false", "dryRun": "true"}, True),
        ({}, False),
        ({"simulate": "false"}, False),
        ({"simulate": "TRUE"}, False),
        ({"simulate": ""}, False),
    ],
)
def test_the_role_plan_is_enough_only_where_nothing_but_a_simulation_is_asked_for(query: dict[str, str], allowed: bool) -> None:
    need = Need(roles=(Role.START,), simulating=(Role.PLAN,))
    assert need.allows(Caller(name="x", roles=(Role.PLAN,)), query, {}) is allowed
    assert need.allows(Caller(name="x", roles=(Role.START,)), query, {})


@pytest.mark.parametrize(
    ("headers", "own"),
    [
        ({"X-Okapi-Tenant": "diku", "X-Okapi-Token": "any"}, True),
        ({"X-Okapi-Tenant": "diku", "Authorization": "Bearer any"}, True),
        ({"X-Okapi-Tenant": "diku", "Cookie": "a=b; folioAccessToken=any"}, True),
        ({"X-Okapi-Tenant": "diku"}, False),
        ({"X-Okapi-Tenant": "other", "X-Okapi-Token": "any"}, False),
        ({"X-Okapi-Token": "any"}, False),
    ],
)
def test_users_read_about_their_own_tenant_by_okapis_rule(headers: dict[str, str], own: bool) -> None:
    assert Need(roles=(Role.READ,), own=True).is_own(headers, {"tenant": "diku"}) is own
    assert not Need(roles=(Role.READ,)).is_own(headers, {"tenant": "diku"})


def test_these_routes_alone_are_for_everybody() -> None:
    public = {(method, path) for method, path, _, need in ROUTES if not need.roles}
    assert public == {("GET", "/_/version"), ("GET", "/_/proxy/health"), ("GET", "/_/lifecycle/delays/{hold}")}


def test_users_may_only_read_about_their_own_tenant() -> None:
    own = {(method, path.rpartition("{tenant}")[2]) for method, path, _, need in ROUTES if need.own}
    assert own == {
        ("GET", "/modules"),
        ("GET", "/modules/{module}"),
        ("GET", "/interfaces"),
        ("GET", "/interfaces/{interface}"),
    }


def test_nothing_is_changed_with_the_roles_read_and_plan_alone() -> None:
    reader = Caller(name="x", roles=(Role.READ, Role.PLAN))
    assert [(method, path) for method, path, _, need in ROUTES if method != "GET" and need.allows(reader, {}, {})] == []


def test_the_values_of_the_environment_are_not_for_readers() -> None:
    assert [path for _, path, _, need in ROUTES if path.startswith("/_/env") and need.allows(READER, {}, {})] == []


def test_the_need_of_a_route_is_found_by_the_shape_of_its_path_alone() -> None:
    known, unknown = find("GET", "/_/proxy/modules/mod-a-1.0.0"), find("GET", "/_/proxy/modules/%00")
    assert known is not None
    assert unknown is not None
    assert known[1] is unknown[1]


def test_every_role_has_a_meaning() -> None:
    assert tuple(MEANINGS) == tuple(Role)


def test_a_token_limited_to_products_is_let_in_for_theirs_alone() -> None:
    team = Caller(name="t", roles=(Role.REGISTER, Role.READ), products=("mod-a",))
    modules, tenants = Need(roles=(Role.REGISTER,), per_product=True), Need(roles=(Role.REGISTER,))
    assert modules.allows(team, {}, {})  # the route itself looks at the module that the body names
    assert modules.allows(team, {}, {"module": "mod-a-2.0.0"})
    assert not modules.allows(team, {}, {"module": "mod-z-1.0.0"})
    assert not modules.allows(team, {}, {"module": ""})
    assert not tenants.allows(team, {}, {})
    assert Need(roles=(Role.READ,)).allows(team, {}, {"module": "mod-z-1.0.0"})


# signals

INSTANCE = Caller(name="i", roles=(Role.SIGNAL,), module="mod-a-1.0.0", instance="i", products=("mod-a",))
OPERATOR = Caller(name="o", roles=(Role.SIGNAL,))
TEAM = Caller(name="t", roles=(Role.SIGNAL,), products=("mod-a", "mod-b"))


@pytest.mark.parametrize(
    ("caller", "module", "instance", "allowed"),
    [
        (ANYBODY, "mod-z-1.0.0", "any", True),
        (NOBODY, "mod-a-1.0.0", None, False),
        (READER, "mod-a-1.0.0", None, False),
        (OPERATOR, "mod-z-1.0.0", None, True),
        (OPERATOR, "mod-z-1.0.0", "any", True),
        (TEAM, "mod-a-1.0.0", None, True),
        (TEAM, "mod-b-7.0.0", "any", True),
        (TEAM, "mod-b", None, True),
        (TEAM, "mod-z-1.0.0", None, False),
        (TEAM, "mod-a-b-1.0.0", None, False),
        (INSTANCE, "mod-a-1.0.0", None, True),
        (INSTANCE, "mod-a-1.0.0", "i", True),
        (INSTANCE, "mod-a-2.0.0", None, True),
        (INSTANCE, "mod-a-1.0.0", "j", False),
        (INSTANCE, "mod-z-1.0.0", None, False),
        (INSTANCE, "mod-z-1.0.0", "i", False),
        (INSTANCE, "", None, False),
        (INSTANCE, "mod a", None, False),
    ],
)
def test_signals_are_for_ones_own_modules(caller: Caller, module: str, instance: str | None, allowed: bool) -> None:
    assert may_signal(caller, module, instance) is allowed


# tokens


def test_tokens_differ_and_say_what_they_are() -> None:
    first, second = new_token("upl_"), new_token("upl_")
    assert first != second
    assert re.fullmatch(r"upl_[A-Za-z0-9_-]{43}", first)


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer abc", "abc"),
        ("BEARER  abc ", "abc"),
        ("abc", None),
        ("Basic abc", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Bearer a token with blanks ", "a token with blanks"),
        ("", None),
        (None, None),
    ],
)
def test_a_token_is_given_as_bearer(header: str | None, token: str | None) -> None:
    assert bearer(header) == token


def test_a_file_comes_back_as_it_was_written(path: Path) -> None:
    entries = (entry("ci", "a", Role.READ, Role.START), entry("team", "b", Role.SIGNAL, products=("mod-a", "edge-sip2")))
    assert read_tokens(written(path, *entries)) == entries


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[token]", "is not valid TOML"),
        ("[[tokens]]", "tokens: Extra inputs are not permitted"),
        ('[[token]]\nname = "a"\nroles = ["read"]', "token.0.sha256: Field required"),
        ('[[token]]\nname = "a"\nsha256 = "plain"\nroles = ["read"]', "token.0.sha256: String should match"),
        (f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nroles = []', "token.0.roles: "),
        (f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nroles = ["root"]', "token.0.roles.0: Input should be 'read'"),
        (f'[[token]]\nname = "a b"\nsha256 = "{"0" * 64}"\nroles = ["read"]', "token.0.name: String should match"),
        (f'[[token]]\nname = "anonymous"\nsha256 = "{"0" * 64}"\nroles = ["read"]', "without a token; choose another"),
        (f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nroles = ["signal"]\nproducts = ["m-1"]', "m-1 is no product"),
        (
            f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nroles = ["start", "signal"]\nproducts = ["m"]',
            "products limit the roles signal and register",
        ),
        (
            f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nroles = ["read"]\nproducts = ["m"]',
            "products limit the roles signal and register",
        ),
    ],
)
def test_a_file_that_says_something_else_is_refused_with_the_place(path: Path, text: str, says: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(TokensFileError) as refused:
        TokensFile(path)
    assert says in str(refused.value)
    assert str(path) in str(refused.value)
    assert "plain" not in str(refused.value)


@pytest.mark.parametrize(("other", "what"), [(entry("a", "2", Role.READ), "name"), (entry("b", "1", Role.READ), "sha256")])
def test_a_token_is_there_once(path: Path, other: Entry, what: str) -> None:
    with pytest.raises(TokensFileError, match=f"two tokens have the {what}"):
        read_tokens(written(path, entry("a", "1", Role.READ), other))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_read_is_refused(path: Path, mode: int) -> None:
    written(path, entry("a", "a", Role.READ)).chmod(mode)
    with pytest.raises(TokensFileError, match="chmod 600"):
        TokensFile(path)


def test_a_file_that_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(TokensFileError, match="No such file"):
        TokensFile(path)


def test_tokens_come_and_go_with_the_file(path: Path) -> None:
    tokens = TokensFile(written(path, entry("a", "1", Role.READ)), recheck=0)
    assert tokens.find(digest("1")) == Caller(name="a", roles=(Role.READ,))
    written(path, entry("b", "2", Role.SIGNAL, products=("m",)))
    assert tokens.find(digest("1")) is None
    assert tokens.find(digest("2")) == Caller(name="b", roles=(Role.SIGNAL,), products=("m",))


def test_the_file_is_looked_at_only_now_and_then(path: Path) -> None:
    now = 0.0
    tokens = TokensFile(written(path, entry("a", "1", Role.READ)), recheck=1, clock=lambda: now)
    written(path)
    now = 0.9
    assert tokens.find(digest("1")) is not None
    now = 1.0
    assert tokens.find(digest("1")) is None


@pytest.mark.parametrize("damage", ["text", "mode", "gone"])
def test_a_new_file_that_is_broken_leaves_the_tokens_as_they_are_and_is_logged_once(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = TokensFile(written(path, entry("a", "1", Role.READ)), recheck=0)
    if damage == "text":
        path.write_text("[[token")
    elif damage == "mode":
        path.chmod(0o644)
    else:
        path.unlink()
    with caplog.at_level(logging.ERROR):
        assert [tokens.find(digest("1")) for _ in range(3)] == [Caller(name="a", roles=(Role.READ,))] * 3
    assert [record.message.count(str(path)) > 0 for record in caplog.records] == [True]
    written(path, entry("b", "2", Role.READ))
    assert tokens.find(digest("1")) is None
    assert tokens.find(digest("2")) is not None


# who calls


async def nobody(token: bytes) -> None:
    del token


def who(credentials: Credentials, header: str | None) -> Caller | None:
    return asyncio.run(credentials.identify(header))


def test_without_credentials_everybody_may_do_everything() -> None:
    credentials = Credentials(token="", tokens_file="", instance_of=nobody)
    assert not credentials.are_asked_for
    assert who(credentials, None) is ANYBODY
    assert ANYBODY.roles == tuple(Role)


def test_the_one_token_has_all_roles_beside_those_of_the_file(path: Path) -> None:
    credentials = Credentials(token="one", tokens_file=str(written(path, entry("a", "1", Role.READ))), instance_of=nobody)
    assert credentials.are_asked_for
    assert who(credentials, "Bearer one") == Caller(name="operator", roles=tuple(Role))
    assert who(credentials, "Bearer 1") == Caller(name="a", roles=(Role.READ,))
    assert [who(credentials, header) for header in (None, "Bearer two", "one", "Bearer \udcff")] == [None] * 4


def test_a_secret_of_an_instance_makes_a_caller_that_may_only_signal_for_it() -> None:
    async def instance_of(token: bytes) -> tuple[str, str] | None:
        return ("mod-a-1.0.0", "mod-a-1.0.0@n") if token == digest("upi_s") else None

    credentials = Credentials(token="one", tokens_file="", instance_of=instance_of)
    assert who(credentials, "Bearer upi_s") == Caller(
        name="mod-a-1.0.0@n",
        roles=(Role.SIGNAL,),
        module="mod-a-1.0.0",
        instance="mod-a-1.0.0@n",
        products=("mod-a",),
    )
    assert who(credentials, "Bearer upi_other") is None


def test_what_looks_like_no_secret_of_an_instance_costs_no_look_into_the_database() -> None:
    async def fails(token: bytes) -> None:
        raise AssertionError(token)

    assert who(Credentials(token="one", tokens_file="", instance_of=fails), "Bearer upl_x") is None


# uplift token


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["token", *map(str, arguments)])


@pytest.mark.parametrize("arguments", [(), ("add",), ("list",), ("remove",)])
def test_the_command_explains_itself(arguments: tuple[str, ...]) -> None:
    shown = run(*arguments, "--help")
    assert shown.exit_code == 0
    assert len(shown.output.splitlines()) > 4


def test_the_help_of_add_has_all_roles_with_their_meaning() -> None:
    shown = run("add", "--help").output
    assert [
        role for role, meaning in MEANINGS.items() if not re.search(rf"^  +{role} +{meaning[:20]}", shown, re.MULTILINE)
    ] == []


def test_a_token_that_was_added_is_printed_once_and_known_by_its_digest(path: Path) -> None:
    shown = run("add", "ci", "--role", "start", "--role", "read", "--file", path)
    assert shown.exit_code == 0, shown.output
    token = shown.stdout.strip()
    assert re.fullmatch(r"upl_[A-Za-z0-9_-]{43}", token)
    assert token not in path.read_text()
    assert TokensFile(path).find(digest(token)) == Caller(name="ci", roles=(Role.READ, Role.START))
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_tokens_are_listed_by_name_without_digests(path: Path) -> None:
    run("add", "ci", "--role", "read", "--file", path)
    run("add", "team", "--role", "signal", "--product", "mod-a", "--product", "mod-b", "--file", path)
    assert run("list", "--file", path).output.splitlines() == [
        "name\troles\tproducts",
        "ci\tread\t-",
        "team\tsignal\tmod-a,mod-b",
    ]


def test_a_token_that_was_removed_is_not_known_any_more(path: Path) -> None:
    tokens = [run("add", name, "--role", "read", "--file", path).stdout.strip() for name in ("a", "b")]
    assert run("remove", "a", "--file", path).exit_code == 0
    known = TokensFile(path)
    assert [known.find(digest(token)) for token in tokens] == [None, Caller(name="b", roles=(Role.READ,))]


def test_the_setting_names_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_GATEWAY__TOKENS_FILE", str(path))
    assert run("add", "ci", "--role", "read").exit_code == 0
    assert tomllib.loads(path.read_text())["token"][0]["name"] == "ci"


def test_a_link_to_the_file_stays_one(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    assert run("add", "ci", "--role", "read", "--file", link).exit_code == 0
    assert link.is_symlink()
    assert len(read_tokens(path)) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("add", "ci", "--role", "read"), "there is a token ci already in"),
        (("add", "a b", "--role", "read"), "name: String should match pattern"),
        (("add", "x", "--role", "start", "--product", "m"), "products limit the roles signal and register"),
        (("add", "x", "--role", "signal", "--product", "m-1.0.0"), "m-1.0.0 is no product; leave the version away"),
        (("remove", "x"), "there is no token x in"),
    ],
)
def test_what_cannot_be_done_is_a_message_and_the_file_stays(path: Path, arguments: tuple[str, ...], says: str) -> None:
    run("add", "ci", "--role", "read", "--file", path)
    before = path.read_bytes()
    shown = run(*arguments, "--file", path)
    assert shown.exit_code == 1
    assert shown.stderr.startswith("Error: ")
    assert says in shown.stderr
    assert shown.stdout == ""
    assert path.read_bytes() == before


@pytest.mark.parametrize("arguments", [("add", "ci", "--role", "read"), ("list",), ("remove", "ci")])
def test_without_a_file_the_message_says_what_to_set(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPLIFT_GATEWAY__TOKENS_FILE", raising=False)
    shown = run(*arguments)
    assert (shown.exit_code, shown.stderr) == (
        1,
        "Error: which file? Set gateway.tokens_file, so that the gateway knows it too, or give --file\n",
    )


def test_a_file_that_others_may_read_is_not_added_to(path: Path) -> None:
    run("add", "ci", "--role", "read", "--file", path)
    path.chmod(0o644)
    shown = run("add", "x", "--role", "read", "--file", path)
    assert (shown.exit_code, "chmod 600" in shown.stderr) == (1, True)


def test_a_folder_that_is_not_there_is_a_message(tmp_path: Path) -> None:
    shown = run("add", "ci", "--role", "read", "--file", tmp_path / "none" / "tokens.toml")
    assert (shown.exit_code, "No such file or directory" in shown.stderr) == (1, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes for others")
def test_the_file_stays_its_owners_when_root_changes_it(path: Path) -> None:
    os.chown(written(path, entry("a", "1", Role.READ)), 12345, 12346)
    assert run("add", "ci", "--role", "read", "--file", path).exit_code == 0
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)


# the environment of instances


@pytest.mark.parametrize("name", ["UPLIFT_GATEWAY_URL", "UPLIFT_INSTANCE_TOKEN"])
def test_variables_of_instances_are_let_be_in_instances_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(SettingsError, match=name):
        load()
    monkeypatch.setenv("UPLIFT_INSTANCE", "i")
    load()

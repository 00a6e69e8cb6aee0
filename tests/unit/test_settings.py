"""uplift_settings: where values come from, which one wins, and what is said about wrong ones."""

import os
from pathlib import Path

import pytest

from uplift_settings import Origin, SecretError, SettingsError, explain, load, read_secret
from uplift_settings.load import PREFIX
from uplift_settings.tree import Settings


@pytest.fixture(autouse=True)
def _no_variables_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "uplift.toml"
    path.write_text('[gateway]\nport = 1001\ngrace = 7\n[deploy.env]\nA = "file"\nB = "file"\n')
    return path


def origin(key: str, found: tuple[Origin, ...]) -> Origin:
    return next(each for each in found if each.key == key)


def test_without_file_and_variables_all_is_default() -> None:
    assert load() == Settings()
    assert {each.source for each in explain()} == {"default"}


def test_the_file_wins_over_defaults(file: Path) -> None:
    assert load(config=file).gateway.port == 1001


def test_the_file_named_by_a_variable_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_CONFIG", str(file))
    assert load().gateway.port == 1001


def test_the_file_of_the_command_line_wins_over_the_one_named_by_a_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_CONFIG", str(file.with_name("absent.toml")))
    assert load(config=file).gateway.port == 1001


def test_variables_win_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_GATEWAY__PORT", "1002")
    assert (load(config=file).gateway.port, load(config=file).gateway.grace) == (1002, 7.0)


def test_the_command_line_wins_over_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_GATEWAY__PORT", "1002")
    assert load(overrides={"gateway": {"port": 1003}}).gateway.port == 1003


def test_tables_of_file_and_variable_are_merged_by_key(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_DEPLOY__ENV", '{"B": "variable", "C": "variable"}')
    assert load(config=file).deploy.env == {"A": "file", "B": "variable", "C": "variable"}


def test_every_leaf_tells_where_it_came_from(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_GATEWAY__GRACE", "8")
    found = explain(config=file, overrides={"home": "/srv/uplift"})
    assert origin("gateway.port", found).source == f"file {file}"
    assert origin("gateway.grace", found) == Origin(
        key="gateway.grace",
        value="8.0",
        source="$UPLIFT_GATEWAY__GRACE",
        meaning=Settings().gateway.__class__.model_fields["grace"].description or "",
    )
    assert origin("home", found).source == "command line"
    assert origin("gateway.pool", found).source == "default"


def test_every_leaf_has_a_meaning() -> None:
    assert [each.key for each in explain() if not each.meaning] == []


def test_an_unknown_key_of_the_file_is_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "uplift.toml"
    path.write_text("[gateway]\nprot = 1\n")
    with pytest.raises(SettingsError) as caught:
        load(config=path)
    assert (
        str(caught.value)
        == f"unknown setting gateway.prot (file {path}) (did you mean gateway.port?); `uplift config` lists the keys"
    )


def test_an_unknown_group_of_a_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_GATWAY__PORT", "1")
    with pytest.raises(SettingsError, match="unknown setting: environment variable UPLIFT_GATWAY__PORT"):
        load()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("UPLIFT_GATEWAY_PORT", " (did you mean UPLIFT_GATEWAY__PORT?);"),
        ("UPLIFT_CONFG", " (did you mean UPLIFT_CONFIG?);"),
        ("uplift_gateway_port", " (did you mean UPLIFT_GATEWAY__PORT?);"),
        ("UPLIFT_HOME__OF_MINE", ";"),
        ("UPLIFT_SOMETHING_ELSE_ALTOGETHER", ";"),
    ],
)
def test_a_variable_that_says_nothing_is_refused_with_the_nearest_name(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError) as caught:
        load()
    assert f"unknown setting: environment variable {name}{meant}" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "UPLIFT_CACHE",
        "UPLIFT_DATABASE_URL",
        "UPLIFT_GATEWAY_REPLACES",
        "UPLIFT_GATEWAY_STATE",
        "UPLIFT_GENERATION",
        "UPLIFT_INSTANCE",
        "UPLIFT_LISTEN_FD",
        "UPLIFT_MODULES_URL",
        "UPLIFT_READY_FD",
        "UPLIFT_TEST_POSTGRES_DSN",
    ],
)
def test_a_variable_that_is_known_but_no_setting_is_let_be(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert load() == Settings()


def test_a_variable_that_a_setting_refers_to_may_have_any_name(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPLIFT_DATA__DSN", "env:UPLIFT_MY_DATABASE")
    monkeypatch.setenv("UPLIFT_MY_DATABASE", "postgresql://host/db")
    monkeypatch.setenv("UPLIFT_DEPLOY__ENV", '{"PASSWORD": "env:UPLIFT_MY_PASSWORD"}')
    monkeypatch.setenv("UPLIFT_MY_PASSWORD", "secret")
    assert load(config=file).data.dsn == "env:UPLIFT_MY_DATABASE"


def test_a_group_may_come_from_one_variable_and_an_entry_of_a_table_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_GATEWAY", '{"port": 1002}')
    monkeypatch.setenv("UPLIFT_DEPLOY__ENV__A", "b")
    assert load().gateway.port == 1002
    assert {key.upper(): value for key, value in load().deploy.env.items()} == {"A": "b"}


def test_an_unknown_key_of_a_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_GATEWAY__PROT", "1")
    with pytest.raises(SettingsError, match=r"unknown setting gateway\.prot \(\$UPLIFT_GATEWAY__PROT\)"):
        load()


def test_a_wrong_value_is_named_with_its_source_and_what_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_GATEWAY__PORT", "70000")
    with pytest.raises(SettingsError, match=r"gateway\.port \(\$UPLIFT_GATEWAY__PORT\): .*65535, got '70000'"):
        load()


def test_a_group_that_is_not_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_DEPLOY__ENV", "{")
    with pytest.raises(SettingsError, match=r"environment: .*deploy"):
        load()


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read settings file .*absent\.toml: No such file"):
        load(config=tmp_path / "absent.toml")


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "uplift.toml"
    path.write_text("[gateway\n")
    with pytest.raises(SettingsError, match="is not valid TOML"):
        load(config=path)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().gateway.port = 1  # type: ignore[misc]


def test_snapshots_are_kept_in_the_home_folder_unless_said_otherwise() -> None:
    assert load(overrides={"home": "/srv/u"}).snapshot_folder == Path("/srv/u/snapshots")
    assert load(overrides={"snapshots": {"folder": "/srv/s"}}).snapshot_folder == Path("/srv/s")


def test_a_secret_is_read_where_its_reference_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "from env")
    path = tmp_path / "secret"
    path.write_text("from file\n")
    assert read_secret("env:SOME_SECRET", what="it") == "from env"
    assert read_secret(f"file:{path}", what="it") == "from file"
    assert read_secret("postgresql://host/db", what="it") == "postgresql://host/db"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("env:NOT_SET_ANYWHERE", "gateway.dsn: environment variable NOT_SET_ANYWHERE is not set"),
        ("file:/nowhere/at/all", "gateway.dsn: cannot read /nowhere/at/all"),
    ],
)
def test_a_reference_that_points_nowhere_is_named(reference: str, said: str) -> None:
    with pytest.raises(SecretError, match=said):
        read_secret(reference, what="gateway.dsn")

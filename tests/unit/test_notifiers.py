"""gateway.notifiers: how they are found, and what a webhook's receiver gets."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.notifiers import Notification, load_notifiers
from gateway.notifiers.base import Event
from gateway.notifiers.log import LogNotifier
from gateway.notifiers.webhook import WebhookNotifier, cloud_event, signature
from gateway.outbox import pause
from upgrade_core.problems import Problem, Severity, closed
from uplift_settings import SecretError, SettingsError
from uplift_settings.tree import GatewaySettings

SINCE = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
TEXTS = st.text(max_size=40)
PROBLEMS = st.builds(
    Problem,
    key=TEXTS,
    kind=TEXTS,
    severity=st.sampled_from(Severity),
    message=TEXTS,
    remedy=TEXTS,
    module=st.none() | TEXTS,
    tenant=st.none() | TEXTS,
    job=st.none() | TEXTS,
)


def notification(event: Event = "opened", problem: Problem | None = None) -> Notification:
    time = SINCE if event == "opened" else SINCE.replace(hour=4)
    return Notification(id="7", event=event, problem=problem or closed("m-1.0.0"), time=time, since=SINCE, source="http://g")


def test_a_problem_that_opens_is_this_cloud_event() -> None:
    problem = closed("m-1.0.0")
    assert cloud_event(notification()) == {
        "specversion": "1.0",
        "id": "7",
        "source": "http://g",
        "type": "org.uplift.problem.opened",
        "subject": "closed:m-1.0.0",
        "time": "2030-01-02T03:04:05+00:00",
        "datacontenttype": "application/json",
        "data": {
            "key": "closed:m-1.0.0",
            "kind": "closed",
            "severity": "error",
            "message": problem.message,
            "remedy": problem.remedy,
            "module": "m-1.0.0",
            "since": "2030-01-02T03:04:05+00:00",
        },
    }


def test_a_resolved_problem_says_when() -> None:
    event = cloud_event(notification("resolved"))
    assert event["type"] == "org.uplift.problem.resolved"
    assert event["data"]["since"] == "2030-01-02T03:04:05+00:00"
    assert event["time"] == event["data"]["resolved"] == "2030-01-02T04:04:05+00:00"


@given(problem=PROBLEMS, event=st.sampled_from(["opened", "resolved"]))
def test_a_cloud_event_has_only_members_that_the_specification_knows_and_no_nulls(problem: Problem, event: Event) -> None:
    body = cloud_event(notification(event, problem))
    assert set(body) == {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"}
    assert None not in body["data"].values()
    assert json.loads(json.dumps(body)) == body
    assert body["subject"] == body["data"]["key"] == problem.key


def test_the_signature_is_the_hmac_of_the_body() -> None:
    # RFC 4231, test case 2
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert signature("Jefe", b"what do ya want for nothing?") == f"sha256={expected}"


def test_the_log_is_told_unless_the_settings_say_otherwise() -> None:
    assert [type(each) for each in load_notifiers(GatewaySettings()).values()] == [LogNotifier]


def test_a_webhook_is_made_of_its_references(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("https://h/x\n")
    found = load_notifiers(GatewaySettings(notifiers=("webhook", "log"), webhook_url=f"file:{tmp_path / 'url'}"))
    assert [type(each) for each in found.values()] == [WebhookNotifier, LogNotifier]


@pytest.mark.parametrize("url", ["", "h/x", "ftp://h/x", "http:///x"])
def test_a_webhook_without_an_address_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"gateway\.webhook_url: .* needs an http or https URL"):
        load_notifiers(GatewaySettings(notifiers=("webhook",), webhook_url=url))


def test_a_secret_that_is_not_there_is_refused(tmp_path: Path) -> None:
    settings = GatewaySettings(notifiers=("webhook",), webhook_url="http://h", webhook_secret=f"file:{tmp_path / 'no'}")
    with pytest.raises(SecretError, match=r"gateway\.webhook_secret"):
        load_notifiers(settings)


@pytest.fixture
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with two notifiers, as pip leaves it."""
    info = tmp_path / "pager_of_ours-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pager-of-ours\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[uplift.notifiers]\npager = pager_of_ours:Pager\nbroken = pager_of_ours:no_such\n")
    (tmp_path / "pager_of_ours.py").write_text(
        "class Pager:\n    def __init__(self, settings):\n        self.settings = settings\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("_installed")
def test_notifiers_of_other_distributions_are_found_by_name_and_given_the_settings() -> None:
    settings = GatewaySettings(notifiers=("log", "pager"))
    found = load_notifiers(settings)
    assert list(found) == ["log", "pager"]
    assert getattr(found["pager"], "settings", None) is settings


@pytest.mark.usefixtures("_installed")
def test_a_name_that_nobody_has_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(SettingsError, match="no notifier pigeon; there are broken, log, pager, webhook"):
        load_notifiers(GatewaySettings(notifiers=("pigeon",)))


@pytest.mark.usefixtures("_installed")
def test_a_notifier_that_cannot_be_made_says_why() -> None:
    with pytest.raises(SettingsError, match=r"broken \(pager_of_ours:no_such\) cannot be made: AttributeError"):
        load_notifiers(GatewaySettings(notifiers=("broken",)))


@given(attempts=st.integers(1, 10_000), chance=st.floats(0, 1))
def test_pauses_double_up_to_the_most_and_chance_takes_a_half_at_most(attempts: int, chance: float) -> None:
    found = pause(attempts, first=1.0, most=300.0, chance=chance)
    whole = pause(attempts, first=1.0, most=300.0, chance=0.0)
    assert whole / 2 <= found <= whole <= 300.0
    assert whole == (2.0 ** (attempts - 1) if attempts < 10 else 300.0)

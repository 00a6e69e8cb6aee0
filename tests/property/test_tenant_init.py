"""Modules answer what they like: it always means something, and it can always be stored."""

import json

from hypothesis import given
from hypothesis import strategies as st

from upgrade_core.descriptors import Handler, Interface, ModuleDescriptor
from upgrade_core.tenant_init import MAX_MESSAGE, MAX_MESSAGES, Call, Effect, InitAnswer, next_look, read_answer, read_job
from uplift_settings.tree import InitSettings


def speaks(name: str, version: str) -> ModuleDescriptor:
    handlers = (Handler(methods=("POST",), pattern="/_/tenant"), Handler(methods=("GET", "DELETE"), pattern="/_/tenant/{id}"))
    return ModuleDescriptor(
        id="m-1.0.0", product="m", provides=(Interface(id=name, version=version, type="system", handlers=handlers),)
    )


MODULES = st.sampled_from([speaks("_tenant", "1.2"), speaks("_tenant", "2.0"), speaks("_tenantInit", "1.0")])
STATUSES = st.sampled_from([200, 201, 202, 204, 400, 404, 500, 502, 503, 504]) | st.integers(100, 999)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("id", "complete", "error", "messages", "warnings", "progress"), ANYTHING)
    | {
        "status": st.sampled_from(["running", "done", "error"]) | ANYTHING,
        "errors": st.lists(ANYTHING | st.builds(lambda text: {"message": text}, st.text(max_size=3)), max_size=3) | ANYTHING,
    },
)
BODIES = st.one_of(MEMBERS.map(json.dumps), ANYTHING.map(json.dumps), st.text(max_size=20))
LOCATIONS = st.none() | st.text(max_size=20) | st.sampled_from(["/_/tenant/1", "http://h/x", "//[", "?", "\x00"])


def is_sound(answer: InitAnswer) -> None:
    assert answer.effect in set(Effect)
    assert answer.outcome in {"", "nothing to do", "created", "upgraded", "refused", "failed"}
    assert (answer.effect is Effect.FOLLOW) <= bool(answer.job_path)
    assert bool(answer.errors) is (answer.effect in {Effect.REFUSED, Effect.FAILED, Effect.RETRY, Effect.UNKNOWN})
    for texts in (answer.messages, answer.warnings, answer.errors):
        assert len(texts) <= MAX_MESSAGES + 1
        for text in texts:
            assert len(text) <= MAX_MESSAGE
            assert "\x00" not in text.encode().decode()
    answer.progress.encode()
    answer.job_path.encode("ascii")


@given(MODULES, STATUSES, LOCATIONS, BODIES)
def test_any_answer_means_something(module: ModuleDescriptor, status: int, location: str | None, body: str) -> None:
    """Requirement B2."""
    call = Call(method="POST", path="/_/tenant", body="{}")
    answer = read_answer(module, call, status=status, location=location, body=body)
    is_sound(answer)
    assert (answer.effect is Effect.DONE) <= (200 <= status < 300)
    assert (answer.effect is Effect.REFUSED) is (status == 400)


@given(MODULES, STATUSES, BODIES)
def test_any_look_at_a_job_means_something(module: ModuleDescriptor, status: int, body: str) -> None:
    """Requirement C3."""
    answer = read_job(module, "/_/tenant/1", status=status, body=body)
    is_sound(answer)
    assert answer.job_path == "/_/tenant/1"
    assert (answer.effect in {Effect.DONE, Effect.FOLLOW}) <= (status == 200)


@given(taken=st.floats(0, 1e6), first=st.floats(0.01, 5), longest=st.floats(5, 15))
def test_a_job_is_looked_at_again_within_a_tenth_of_its_time_and_never_later_than_the_longest_pause(
    taken: float, first: float, longest: float
) -> None:
    """Requirement C4."""
    pause = next_look(taken, first=first, longest=longest)
    assert first <= pause <= longest
    assert pause <= max(first, taken / 10) + 1e-9


def test_no_pause_between_looks_is_longer_than_15_seconds_unless_somebody_sets_it() -> None:
    settings = InitSettings()
    assert next_look(6 * 3_600, first=settings.poll_first, longest=settings.poll_max) == 15

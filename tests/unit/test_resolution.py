"""What a request means for a tenant: what is asked for and nothing else, and the order of what is done.

Okapi's own cases are in `test_okapi_cases`.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.modules import module
from upgrade_core.descriptors import ModuleDescriptor
from upgrade_core.errors import ResolutionError
from upgrade_core.resolution import Decision, Verb, Wanted, resolve, upgrades, visible

MODULES = {
    "A1": module("moduleA-1.0.0", "int=1.0"),
    "A11": module("moduleA-1.1.0", "int=1.1"),
    "A2": module("moduleA-2.0.0", "int=2.0"),
    "B": module("moduleB-1.0.0", "int=1.0"),
    "D1": module("moduleD-1.0.0", optional="int=1.0"),
    "D2": module("moduleD-2.0.0", optional="int=2.0"),
    "E1": module("moduleE-1.0.0", requires="int=1.0"),
    "E11": module("moduleE-1.1.0", requires="int=1.1"),
    "E2": module("moduleE-2.0.0", requires="int=2.0"),
    "S1": module("st-1.0.0", "int=1.0"),
    "S2": module("st-1.0.1", "int=2.0"),
    "O1": module("ot-1.0.0", requires="int=1.0"),
    "O2": module("ot-1.0.1", requires="int=2.0"),
    "inta": module("modA-1.0.0", "inta=1.0"),
    "A41": module("modA-1.0.0", "inta=1.0", "intb=1.0"),
    "B41": module("modB-1.0.0", "intb=1.0", "inta=1.0"),
    "okapi": module("okapi-7.0.0", "okapi=1.0"),
    "M51": module("mod-1.0.0", requires="unknown1=1.0,unknown2=1.0"),
}


def run(
    available: str,
    enabled: str,
    request: str,
    *,
    reinstall: bool = False,
    check: bool = True,
    purgeable: str = "",
    mend: bool = True,
) -> tuple[str, ...]:
    """Resolve texts in the notation of the cases: `+x` enable, `-x` disable; the answer also `x<y` upgrade and `=x` uptodate."""
    here = {descriptor.id: descriptor for key, descriptor in MODULES.items() if key in available.split()}
    names = {descriptor.id: key for key, descriptor in MODULES.items() if key in available.split()}

    def wanted(item: str) -> Wanted:
        name = item[1:]
        return Wanted(
            id=MODULES[name].id if name in MODULES else name, verb=Verb.ENABLE if item.startswith("+") else Verb.DISABLE
        )

    def line(decision: Decision) -> str:
        name = names[decision.module]
        if decision.action == "enable" and decision.module_from is not None:
            return f"{name}<{names[decision.module_from]}"
        return {"enable": "+", "disable": "-", "uptodate": "="}[decision.action] + name

    decisions = resolve(
        tuple(wanted(item) for item in request.split()),
        enabled=tuple(MODULES[key].id for key in enabled.split()),
        catalogue=here,
        reinstall=reinstall,
        check=check,
        mend=mend,
        purgeable=frozenset(MODULES[key].id for key in purgeable.split()),
    )
    return tuple(line(decision) for decision in decisions)


def test_reinstall_of_a_module_given_twice_runs_once() -> None:
    assert run("A1", "A1", "+A1 +A1", reinstall=True) == ("A1<A1", "=A1")


def test_reinstall_of_what_is_not_enabled_is_an_install() -> None:
    assert run("A1", "", "+A1", reinstall=True) == ("+A1",)


def test_without_the_check_the_order_is_the_requests() -> None:
    assert run("A1 E1", "", "+E1 +A1", check=False) == ("+E1", "+A1")


def test_without_the_check_modules_that_require_each_other_are_enabled() -> None:
    assert run("A41 B41 M51", "", "+M51 +A41 +B41", check=False) == ("+M51", "+A41", "+B41")


def test_a_newest_version_may_be_a_pre_release() -> None:
    catalogue = {text: module(text) for text in ("m-1.0.0", "m-1.1.0-SNAPSHOT.9", "m-1.1.0-SNAPSHOT.10", "n-9.0.0")}
    assert resolve((Wanted(id="m"),), enabled=(), catalogue=catalogue) == (
        Decision(action="enable", module="m-1.1.0-SNAPSHOT.10"),
    )


def test_a_product_that_nobody_registered_is_not_found() -> None:
    with pytest.raises(ResolutionError, match=r"^Module other not found$"):
        run("A1", "", "+other")


def test_a_product_alone_is_disabled_in_the_version_that_is_enabled() -> None:
    assert run("A1 A11", "A1", "-moduleA") == ("-A1",)


def test_another_version_than_the_enabled_one_cannot_be_disabled() -> None:
    with pytest.raises(ResolutionError, match=r"^Module moduleA-1.1.0 not found$"):
        run("A1 A11", "A1", "-A11")


def test_what_only_gets_checked_is_refused_where_a_requirement_would_be_unmet() -> None:
    with pytest.raises(ResolutionError, match=r"^interface int required by module moduleE-1.0.0 not found$"):
        run("A1 E1", "A1 E1", "-A1", mend=False)


def test_what_only_gets_checked_brings_nothing_in_and_moves_nothing() -> None:
    for request, text in (
        ("+E1", "interface int required by module moduleE-1.0.0 not found"),
        ("+E1 +A2", "Incompatible version for module moduleE-1.0.0 interface int. Need 1.0. Have 2.0/moduleA-2.0.0"),
        ("+E1 +A1 +B", "Multiple modules moduleA-1.0.0, moduleB-1.0.0 provide interface int"),
    ):
        with pytest.raises(ResolutionError) as caught:
            run("A1 A2 B E1", "", request, mend=False)
        assert str(caught.value) == text
    assert run("A1 A2 B E1", "", "+E1 +A1", mend=False) == ("+A1", "+E1")


def test_a_disable_that_an_optional_interface_used_is_fine() -> None:
    assert run("A1 D1", "A1 D1", "-A1") == ("-A1",)


def test_dependents_are_disabled_before_their_providers() -> None:
    assert run("A1 E1", "A1 E1", "-A1 -E1") == ("-E1", "-A1")


def test_an_old_provider_goes_after_its_user_has_moved_on() -> None:
    old, new = module("old-1.0.0", "i=1.0"), module("new-1.0.0", "j=1.0")
    one, two = module("user-1.0.0", requires="i=1.0"), module("user-2.0.0", requires="j=1.0")
    found = resolve(
        (Wanted(id=old.id, verb=Verb.DISABLE), Wanted(id=two.id), Wanted(id=new.id)),
        enabled=(old.id, one.id),
        catalogue={descriptor.id: descriptor for descriptor in (old, new, one, two)},
    )
    assert [(decision.action, decision.module) for decision in found] == [
        ("enable", new.id),
        ("enable", two.id),
        ("disable", old.id),
    ]


def test_the_same_module_can_go_away_and_come_back_in_one_request() -> None:
    assert run("A1 E1", "A1", "-A1 +A1") == ("-A1", "+A1")


def test_what_goes_and_comes_back_while_others_require_it_does_so_at_once() -> None:
    """Nothing is ever enabled without what it requires."""
    assert run("A1 E1", "A1 E1", "-A1 +A1") == ("A1<A1",)
    assert run("A1 A11 E1", "A1 E1", "-A1 +A11") == ("A11<A1",)
    assert run("A1 A11 E1", "A1", "+E1 -A1 +A11") == ("+E1", "A11<A1")


def test_lines_of_one_product_stay_in_their_order() -> None:
    """Or the product that was asked for last would be disabled in the end."""
    assert run("A1 A11 E1", "A1", "-A1 +A11") == ("-A1", "+A11")


def test_what_the_request_disables_and_what_it_enables_requires_stays() -> None:
    assert run("A1 E1", "A1 E1", "-A1 +E1") == ("=A1", "=E1")
    assert run("A1 E1", "A1", "-A1 +E1") == ("=A1", "+E1")


def test_what_the_request_disables_and_what_it_enables_requires_newer_moves() -> None:
    assert run("A1 A11 E11", "A1", "-A1 +E11") == ("A11<A1", "+E11")


def test_a_candidate_replaces_another_version_of_its_product() -> None:
    """Okapi would enable the second version beside the first one."""
    one, two = module("p-1.0.0", "old=1.0"), module("p-2.0.0", "new=1.0")
    user, stays = module("user-1.0.0", requires="new=1.0"), module("stays-1.0.0", requires="old=1.0")
    catalogue = {descriptor.id: descriptor for descriptor in (one, two, user, stays)}
    found = resolve((Wanted(id=user.id),), enabled=(one.id, stays.id), catalogue=catalogue)
    assert found == (
        Decision(action="enable", module=two.id, module_from=one.id),
        Decision(action="enable", module=user.id),
        Decision(action="disable", module=stays.id),
    )
    with pytest.raises(ResolutionError) as caught:
        resolve((Wanted(id=user.id), Wanted(id=one.id)), enabled=(one.id,), catalogue=catalogue)
    assert caught.value.reasons == (
        "Cannot remove module p-1.0.0 which is explicitly given",
        "interface new required by module user-1.0.0 not found",
    )


def test_who_was_asked_for_is_served_before_others_go() -> None:
    """What comes in for it may be what they need: Okapi disables one or the other, as its hashes fall."""
    names = ("aaa", "zzz")
    for asked, other in (names, reversed(names)):
        wanted, stays = module(f"{asked}-1.0.0", requires="i=1.0"), module(f"{other}-1.0.0", requires="i=1.0")
        old, new = module("p-1.0.0", "i=1.0"), module("q-1.0.0", "j=1.0")
        found = resolve(
            (Wanted(id=wanted.id), Wanted(id=old.id, verb=Verb.DISABLE)),
            enabled=(stays.id, old.id),
            catalogue={descriptor.id: descriptor for descriptor in (wanted, stays, old, new)},
        )
        assert found == (Decision(action="enable", module=wanted.id), Decision(action="uptodate", module=old.id))


def clashing(*, older_fits: bool) -> tuple[tuple[str, ...], dict[str, ModuleDescriptor]]:
    """`p-2` is asked for; `user` has to move for it, and its newest version needs what `q`, also asked for, does not have."""
    modules = (
        module("p-1.0.0", "i=1.0"),
        module("p-2.0.0", "i=2.0"),
        module("q-1.0.0", "j=1.0"),
        module("q-2.0.0", "j=2.0"),
        module("user-1.0.0", requires="i=1.0"),
        module("user-2.0.0", requires="i=2.0" if older_fits else "i=1.0"),
        module("user-3.0.0", requires="i=2.0,j=2.0"),
    )
    return ("p-1.0.0", "q-1.0.0", "user-1.0.0"), {descriptor.id: descriptor for descriptor in modules}


def test_a_module_that_only_moves_along_takes_an_older_version_rather_than_fail_the_request() -> None:
    enabled, catalogue = clashing(older_fits=True)
    found = resolve((Wanted(id="p-2.0.0"), Wanted(id="q-1.0.0")), enabled=enabled, catalogue=catalogue)
    assert Decision(action="enable", module="user-2.0.0", module_from="user-1.0.0") in found


def test_a_module_that_only_moves_along_and_has_no_version_that_fits_goes() -> None:
    enabled, catalogue = clashing(older_fits=False)
    found = resolve((Wanted(id="p-2.0.0"), Wanted(id="q-1.0.0")), enabled=enabled, catalogue=catalogue)
    assert Decision(action="disable", module="user-1.0.0") in found


@pytest.mark.parametrize("older_fits", [True, False])
def test_a_module_that_only_moves_along_does_not_take_a_version_that_brings_in_what_clashes(older_fits: bool) -> None:
    enabled, catalogue = clashing(older_fits=older_fits)
    newest = module("user-4.0.0", requires="i=2.0,k=1.0")
    catalogue |= {
        newest.id: newest,
        "r-1.0.0": module("r-1.0.0", "k=1.0", "l=1.0"),
        "s-1.0.0": module("s-1.0.0", "l=1.0", "j=2.0"),
    }
    found = resolve((Wanted(id="p-2.0.0"), Wanted(id="q-1.0.0")), enabled=enabled, catalogue=catalogue)
    moved = Decision(action="enable", module="user-2.0.0", module_from="user-1.0.0")
    gone = Decision(action="disable", module="user-1.0.0")
    assert set(found) == {
        Decision(action="enable", module="p-2.0.0", module_from="p-1.0.0"),
        Decision(action="uptodate", module="q-1.0.0"),
        moved if older_fits else gone,
    }


def test_a_module_that_was_asked_for_is_not_given_up() -> None:
    enabled, catalogue = clashing(older_fits=True)
    with pytest.raises(
        ResolutionError, match=r"^Incompatible version for module user-3.0.0 interface j. Need 2.0. Have 1.0/q-1.0.0$"
    ):
        resolve((Wanted(id="p-2.0.0"), Wanted(id="q-1.0.0"), Wanted(id="user-3.0.0")), enabled=enabled, catalogue=catalogue)


def test_two_modules_that_each_need_another_version_of_the_other_end_the_search() -> None:
    modules = (
        module("a-1.0.0", "x=1.0", "y=2.0"),
        module("a-2.0.0", "x=2.0", "y=2.0"),
        module("b-1.0.0", "y=1.0", "x=2.0"),
        module("b-2.0.0", "y=2.0", "x=1.0"),
        module("c-1.0.0"),
    )
    catalogue = {descriptor.id: descriptor for descriptor in modules}
    with pytest.raises(ResolutionError, match=r"^Incompatible version"):
        resolve((Wanted(id="c-1.0.0"),), enabled=("a-1.0.0", "b-1.0.0"), catalogue=catalogue)


@pytest.mark.parametrize("length", [5, 150, 1_500])
def test_a_cascade_of_any_length_ends(length: int) -> None:
    """Okapi gives up after 100 rounds."""
    chain = [module(f"m{n}-1.0.0", f"i{n}=1.0", f"i{n + 1}=1.0" if n + 1 < length else "") for n in range(length)]
    catalogue = {descriptor.id: descriptor for descriptor in chain}
    found = resolve((Wanted(id="m0-1.0.0"),), enabled=(), catalogue=catalogue)
    assert [decision.module for decision in found] == [descriptor.id for descriptor in reversed(chain)]
    gone = resolve((Wanted(id=chain[-1].id, verb=Verb.DISABLE),), enabled=tuple(catalogue), catalogue=catalogue)
    assert gone == tuple(Decision(action="disable", module=descriptor.id) for descriptor in chain)


def test_many_dependents_of_one_module_go_with_it() -> None:
    users = [module(f"u{n:04}-1.0.0", requires="i=1.0") for n in range(1_000)]
    catalogue = {descriptor.id: descriptor for descriptor in (*users, module("p-1.0.0", "i=1.0"))}
    found = resolve((Wanted(id="p", verb=Verb.DISABLE),), enabled=tuple(catalogue), catalogue=catalogue)
    assert [decision.module for decision in found] == [*(user.id for user in users), "p-1.0.0"]


def test_what_is_asked_for_is_not_disabled_by_the_same_request() -> None:
    with pytest.raises(ResolutionError, match=r"^Cannot remove module moduleA-1.0.0 which is explicitly given$"):
        run("A1", "", "+A1 -A1")


def test_data_of_a_disabled_module_can_be_purged() -> None:
    """Requirement B4: purging is asked for by itself."""
    assert run("A1", "", "-A1", purgeable="A1") == ("-A1",)
    assert run("A1", "", "-moduleA", purgeable="A1") == ("-A1",)
    with pytest.raises(ResolutionError, match=r"^Module moduleA-1.0.0 not found$"):
        run("A1", "", "-A1")


def test_data_is_purged_once() -> None:
    with pytest.raises(ResolutionError, match=r"^Module moduleA-1.0.0 not found$"):
        run("A1", "", "-A1 -A1", purgeable="A1")
    with pytest.raises(ResolutionError, match=r"^Module moduleA-1.0.0 not found$"):
        run("A1", "A1", "-A1 -A1", purgeable="A1")


def test_the_data_of_an_enabled_module_is_not_purged_under_an_older_id() -> None:
    with pytest.raises(ResolutionError, match=r"^Module moduleA-1.0.0 not found$"):
        run("A1 A11", "A11", "-A1", purgeable="A1")


def test_the_disable_of_what_another_module_provides_now_waits_for_nobody() -> None:
    assert run("A1 B E1", "B E1", "-A1 +E1", purgeable="A1") == ("-A1", "=E1")


def test_all_reasons_are_told_at_once() -> None:
    with pytest.raises(ResolutionError) as caught:
        run("A1", "", "+B -A1 +other")
    assert caught.value.reasons == (
        "Module moduleB-1.0.0 not found",
        "Module moduleA-1.0.0 not found",
        "Module other not found",
    )


def test_enabled_modules_that_require_each_other_can_move_together() -> None:
    one, two = module("one-1.0.0", "a=1.0", "b=1.0"), module("two-1.0.0", "b=1.0", "a=1.0")
    one2, two2 = module("one-2.0.0", "a=2.0", "b=2.0"), module("two-2.0.0", "b=2.0", "a=2.0")
    fresh = module("fresh-1.0.0", requires="a=2.0")
    found = resolve(
        tuple(Wanted(id=descriptor.id) for descriptor in (fresh, one2, two2)),
        enabled=(one.id, two.id),
        catalogue={descriptor.id: descriptor for descriptor in (one, two, one2, two2, fresh)},
    )
    assert found[0].module == one2.id
    assert {decision.module for decision in found} == {one2.id, two2.id, fresh.id}


def test_new_modules_behind_a_circle_are_named_with_it() -> None:
    behind = module("behind-1.0.0", requires="inta=1.0")
    catalogue = {descriptor.id: descriptor for descriptor in (MODULES["A41"], MODULES["B41"], behind)}
    with pytest.raises(ResolutionError, match=r"sorted: behind-1.0.0, modA-1.0.0, modB-1.0.0$"):
        resolve(tuple(Wanted(id=found) for found in catalogue), enabled=(), catalogue=catalogue)


def test_enabled_modules_that_nobody_registered_do_not_break_a_request() -> None:
    found = resolve((Wanted(id="moduleA"),), enabled=("gone-1.0.0",), catalogue={"moduleA-1.0.0": MODULES["A1"]})
    assert found == (Decision(action="enable", module="moduleA-1.0.0"),)


@pytest.mark.parametrize(
    ("enabled", "catalogue", "wanted"),
    [
        (("a-1.0.0", "b-1.0.0"), ("a-1.0.0", "a-1.1.0", "a-1.0.1", "b-1.0.0", "c-1.0.0"), ("a-1.1.0",)),
        (("b-1.0.0", "a-1.0.0"), ("a-2.0.0", "b-2.0.0-rc.1", "a-1.0.0", "b-1.0.0"), ("a-2.0.0", "b-2.0.0-rc.1")),
        (("a-2.0.0",), ("a-1.0.0",), ()),
        (("a-1.0.0",), (), ()),
        ((), ("a-1.0.0",), ()),
    ],
)
def test_an_upgrade_asks_for_the_newest_of_every_enabled_product(
    enabled: tuple[str, ...], catalogue: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    """Requirement B7."""
    assert upgrades(enabled, {text: module(text) for text in catalogue}) == tuple(Wanted(id=text) for text in wanted)


VERSIONS = ("1.0.0", "1.1.0-SNAPSHOT.7", "1.1.10000105", "1.1.99", "2.10000105", "1.1.10000105-rc.1")


@pytest.mark.parametrize(
    ("pre_release", "npm_snapshot", "passing"),
    [
        ("true", "true", VERSIONS),
        ("false", "true", ("1.0.0", "1.1.10000105", "1.1.99", "2.10000105")),
        ("true", "false", ("1.0.0", "1.1.0-SNAPSHOT.7", "1.1.99", "2.10000105", "1.1.10000105-rc.1")),
        ("false", "false", ("1.0.0", "1.1.99", "2.10000105")),
        ("only", "true", ("1.1.0-SNAPSHOT.7", "1.1.10000105", "1.1.10000105-rc.1")),
        ("only", "false", ("1.1.0-SNAPSHOT.7", "1.1.10000105-rc.1")),
        ("true", "only", ("1.1.0-SNAPSHOT.7", "1.1.10000105", "1.1.10000105-rc.1")),
        ("only", "only", ("1.1.0-SNAPSHOT.7", "1.1.10000105", "1.1.10000105-rc.1")),
    ],
)
def test_snapshots_and_releases_pass_as_the_filters_say(pre_release: str, npm_snapshot: str, passing: tuple[str, ...]) -> None:
    modules = {f"m-{version}": module(f"m-{version}") for version in VERSIONS}
    found = visible(modules, pre_release=pre_release, npm_snapshot=npm_snapshot)
    assert tuple(found) == tuple(f"m-{version}" for version in passing)


def test_what_is_enabled_is_seen_whatever_the_filters_say() -> None:
    """Okapi does not see an enabled snapshot then, and enables a release of its product beside it."""
    modules = {each: module(each) for each in ("m-1.0.0", "m-1.1.0-SNAPSHOT.7", "n-1.0.0-SNAPSHOT.1")}
    seen = visible(modules, pre_release="false", enabled=("m-1.1.0-SNAPSHOT.7",))
    assert tuple(seen) == ("m-1.0.0", "m-1.1.0-SNAPSHOT.7")
    assert resolve((Wanted(id="m-1.0.0"),), enabled=("m-1.1.0-SNAPSHOT.7",), catalogue=seen) == (
        Decision(action="enable", module="m-1.0.0", module_from="m-1.1.0-SNAPSHOT.7"),
    )


def test_the_answer_does_not_depend_on_the_order_of_the_catalogue_or_of_what_is_enabled() -> None:
    keys = ("S1", "S2", "O1", "O2", "D2")
    wanted = (Wanted(id="ot"), Wanted(id="moduleD"), Wanted(id="st"))
    answers = {
        resolve(
            wanted,
            enabled=enabled,
            catalogue={MODULES[key].id: MODULES[key] for key in order},
        )
        for order in itertools.permutations(keys)
        for enabled in itertools.permutations((MODULES["O1"].id, MODULES["S1"].id))
    }
    assert len(answers) == 1


def test_reasons_do_not_depend_on_the_order_of_the_catalogue_or_of_what_is_enabled() -> None:
    def reasons(catalogue: Mapping[str, ModuleDescriptor], enabled: tuple[str, ...]) -> tuple[str, ...]:
        wanted = (Wanted(id="moduleE-2.0.0"), Wanted(id="mod-1.0.0"))
        with pytest.raises(ResolutionError) as caught:
            resolve(wanted, enabled=enabled, catalogue=catalogue, mend=False)
        return caught.value.reasons

    keys = ("A1", "B", "E2", "M51", "D2")
    found = {
        reasons({MODULES[key].id: MODULES[key] for key in order}, enabled)
        for order in itertools.permutations(keys)
        for enabled in itertools.permutations((MODULES["A1"].id, MODULES["B"].id, MODULES["D2"].id))
    }
    assert len(found) == 1
    assert len(found.pop()) == 5


def test_the_answer_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "from upgrade_core.descriptors import parse_descriptor\n"
        "from upgrade_core.resolution import Verb, Wanted, resolve\n"
        "from upgrade_core.plan import build_plan\n"
        "def m(i, p=(), r=(), v='1.0'):\n"
        "    return parse_descriptor({'id': i, 'provides': [{'id': n, 'version': v.split()[0]} for n in p],\n"
        "                             'requires': [{'id': n, 'version': v} for n in r]})\n"
        "every = [m('a-1.0.0', ['x', 'y']), m('b-1.0.0', ['z'], ['x', 'y']), m('c-1.0.0', [], ['z', 'x']), m('d-1.0.0')]\n"
        "catalogue = {d.id: d for d in every}\n"
        "wanted = tuple(Wanted(id=p) for p in 'dcba') + (Wanted(id='e', verb=Verb.DISABLE),)\n"
        "found = resolve(wanted, enabled=(), purgeable=frozenset(['e-1.0.0', 'e-1.0', 'f-1.0']), catalogue=catalogue)\n"
        "print(found, build_plan(found, enabled=(), data_versions={}, catalogue=catalogue))\n"
        "old = [m('p-1.0.0', ['i', 'j', 'k'], v='1.0'), *(m(f'u{n}-1.0.0', [], ['i', 'j', 'k']) for n in range(5))]\n"
        "new = [m('p-2.0.0', ['i', 'j', 'l'], v='2.0'), *(m(f'u{n}-2.0.0', [], ['i', 'j'], v='2.0') for n in range(4))]\n"
        "more = [m('q-1.0.0', ['k'], ['l'], v='1.0 2.0')]\n"
        "catalogue = {d.id: d for d in (*old, *new, *more)}\n"
        "enabled = tuple(d.id for d in old)\n"
        "found = resolve((Wanted(id='p'), Wanted(id='q')), enabled=enabled, catalogue=catalogue)\n"
        "print(found, build_plan(found, enabled=enabled, data_versions={}, catalogue=catalogue))\n"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("0", "1", "2", "3")
    }
    assert len(answers) == 1
    assert answers.pop()

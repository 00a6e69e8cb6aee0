"""What Okapi's own tests of its resolver say, case by case, in the numbers of the map of its behaviour.

Cases of which ours differs on purpose are marked; `docs/reference/differences-from-okapi.md` has the reasons.
"""

import itertools
from dataclasses import dataclass

import pytest

from tests.modules import module
from upgrade_core.descriptors import ModuleDescriptor
from upgrade_core.errors import ResolutionError
from upgrade_core.resolution import Decision, Verb, Wanted, resolve, upgrades, visible

MODULES = {
    "A1": module("moduleA-1.0.0", "int=1.0"),
    "A11": module("moduleA-1.1.0", "int=1.1"),
    "A111": module("moduleA-1.1.1", "int=1.1"),
    "A2": module("moduleA-2.0.0", "int=2.0"),
    "B": module("moduleB-1.0.0", "int=1.0"),
    "B'": module("moduleB-1.0.0", "int=1.0", replaces=("moduleA",)),
    "C": module("moduleC-1.0.0", "int=1.1"),
    "C'": module("moduleC-1.0.0", "int=1.1", replaces=("moduleB",)),
    "D1": module("moduleD-1.0.0", optional="int=1.0"),
    "D11": module("moduleD-1.1.0", optional="int=1.1"),
    "D2": module("moduleD-2.0.0", optional="int=2.0"),
    "D2'": module("moduleD-2.0.0", optional="int=2.0", requires="unknown=2.0"),
    "E1": module("moduleE-1.0.0", requires="int=1.0"),
    "E11": module("moduleE-1.1.0", requires="int=1.1"),
    "E2": module("moduleE-2.0.0", requires="int=2.0"),
    "S1": module("st-1.0.0", "int=1.0"),
    "S2": module("st-1.0.1", "int=2.0"),
    "S1t": module("st-1.0.0", "int=1.0,_tenant=2.0"),
    "S2t": module("st-1.0.1", "int=2.0,_tenant=2.0"),
    "O1": module("ot-1.0.0", requires="int=1.0"),
    "O2": module("ot-1.0.1", requires="int=2.0"),
    "O3": module("ot-1.0.2", requires="int=2.0,ont=1.0"),
    "ont": module("p-1.0.0", "ont=1.0"),
    "F1": module("further-1.0.0", requires="int=2.0"),
    "G1": module("gone-1.0.0", requires="int=2.0"),
    "inta": module("moda-1.0.0", "inta=1.0"),
    "b32": module("modb-1.0.0", requires="inta=2.0"),
    "c32": module("modc-1.0.0", requires="inta=2.0"),
    "P1": module("prov-1.0.0", "i1=1.0"),
    "P2": module("prov-2.0.0", "i1=2.0"),
    "R1": module("req1-1.0.0", requires="i1=1.0"),
    "R2": module("req2-1.0.0", requires="i1=2.0"),
    "X": module("x-1.0.0", "i4=1.0", "i1=1.0/2.0"),
    "Y": module("y-1.0.0", requires="i4=1.0"),
    "a41": module("modA-1.0.0", "inta=1.0", "intb=1.0"),
    "b41": module("modB-1.0.0", "intb=1.0", "inta=1.0"),
    "a42": module("modA-1.0.0", "inta=1.0", optional="intb=1.0"),
    "a43": module("modA-1.0.0", "i1=1.0"),
    "b43": module("modB-1.0.0", "i2=1.0", "i1=1.0"),
    "c43": module("modC-1.0.0", requires="i2=1.0"),
    "d43": module("modD-1.0.0", optional="i2=1.0"),
    **{f"k{n}": module(f"k{n}-1.0.0", f"c{n}=1.0", f"c{n - 1}=1.0" if n > 1 else "") for n in range(1, 6)},
    "okapi": module("okapi-7.0.0", "okapi=1.0"),
    "m45": module("modA-1.0.0", requires="okapi=1.0"),
    "alpha": module("prov-1.0.0-alpha", "i1=1.0"),
    "r46": module("req-1.0.0", requires="i1=1.0"),
    "basicA": module("basic-1.0.0-alpha", "bint=1.0"),
    "basic2": module("basic-2.0.0", "bint=2.0"),
    "sample12": module("sample-1.2.0", requires="bint=1.0"),
    "sample13": module("sample-1.3.0", requires="bint=1.0"),
    "sample2": module("sample-2.0.0", requires="bint=2.0"),
    "L1": module("level1-1.0.0", "l1=1.0"),
    "L2": module("level2-1.0.0", "l2=1.0"),
    "mux": module("mux-1.0.0", "myint=1.0"),
    "mul1": module("mul1-1.0.0", "myint=1.0", kind="multiple"),
    "mul2": module("mul2-1.0.0", "myint=1.0", kind="multiple"),
    "T1": module("timer-1.0.0", "myint=1.0"),
    "T2": module("timer-2.0.0", "myint=2.0"),
    "business": module("business-1.0.0", requires="myint=1.0"),
    "m51": module("mod-1.0.0", requires="unknown1=1.0,unknown2=1.0"),
    **{f"u{n:02}": module(f"user{n:02}-1.0.0", requires="i1=1.0") for n in range(20)},
}

TWENTY = " ".join(f"+u{n:02}" for n in (7, 3, 19, 0, *(n for n in range(20) if n not in (7, 3, 19, 0))))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call. `+x` enable, `x<y` upgrade, `-x` disable, `=x` up to date; names of products stand for themselves.

    Attributes:
        result: The answer in its order, or the text of the refusal after `400 `.
    """

    available: str
    enabled: str = ""
    request: str = ""
    result: str = ""
    reinstall: bool = False
    mend: bool = True
    check: bool = True
    pre_release: str = "true"
    upgrade: bool = False


def incompatible(module_id: str, interface: str, need: str, have: str) -> str:
    return f"Incompatible version for module {module_id} interface {interface}. Need {need}. Have {have}"


FIVE = "A1 B C A11 E1"
TWO = "400 Multiple modules moduleA-1.0.0, moduleB-1.0.0 provide interface int"
STORAGE = "S1 S2 O1 O2"

CASES: dict[str, Case] = {
    "1": Case(available="A1 B C A11 E11", enabled="A1", request="+A1", result="=A1"),
    "2": Case(available="A1 B C A11 E11", enabled="A1", request="+A1", result="A1<A1", reinstall=True),
    "3": Case(available=FIVE, enabled="A1", request="+B", result="+B -A1"),
    "4": Case(available=FIVE, enabled="A1", request="+B", result=TWO, mend=False),
    "5": Case(available=FIVE, enabled="A1", request="+B +A1", result=TWO),
    "6": Case(available="A1 B C A11 D1", enabled="A1", request="+A11", result="A11<A1"),
    "7": Case(available="A1 B C A11 A2 D1 D2", enabled="B", request="+D2", result="+D2 -B +A2"),
    "8": Case(available="A1 B C A11 D1 E1", enabled="A1", request="+E1", result="+E1"),
    "9": Case(available="A1 A11 D1 D11 E1", request="+D1", result="+D1"),
    "10": Case(
        available="A1 D1 D11 E1",
        enabled="A1",
        request="+D11",
        result=f"400 {incompatible('moduleD-1.1.0', 'int', '1.1', '1.0/moduleA-1.0.0')}",
    ),
    "11": Case(available="A1 A11 A111 D1 D11 E1", enabled="A1", request="+D11", result="+D11 A111<A1"),
    "12": Case(available="A1 A11 D1 D11", enabled="A1 D1", request="+A11", result="A11<A1"),
    "13": Case(available="A1 A11 A111 D1 D11", enabled="A1 D1", request="+D11", result="D11<D1 A111<A1"),
    "14": Case(available="A1 A11 A2 D1 D11 D2", enabled="A1 D1", request="+A2", result="A2<A1 D2<D1"),
    "15": Case(available="A1 A11 A2 D1 D11", enabled="A1 D1", request="+A2", result="A2<A1 -D1"),
    "16": Case(
        available="A1 A11 A2 D1 D11 D2'",
        enabled="A1 D1",
        request="+A2",
        result="400 interface unknown required by module moduleD-2.0.0 not found",
    ),
    "17": Case(
        available="A1 A11 B C D1 D11 E1",
        enabled="A1",
        request="+D11",
        result="400 interface int required by module moduleD-1.1.0 is provided by multiple products: moduleA, moduleC",
    ),
    "18": Case(available="A1 A2 E1 E2", enabled="A1 E1", request="+A2", result="A2<A1 E2<E1"),
    "19": Case(available="A1 A2 E1 E2", enabled="A1 E1", request="+E2", result="A2<A1 E2<E1"),
    "20": Case(available="A1 A2 E1 E2", enabled="A1 E1", request="+E2 +A2", result="A2<A1 E2<E1"),
    "20 reversed": Case(available="A1 A2 E1 E2", enabled="A1 E1", request="+A2 +E2", result="A2<A1 E2<E1"),
    "21": Case(available=FIVE, request="+E1 +A1", result="+A1 +E1"),
    "22": Case(available=FIVE, request="+moduleE +moduleB", result="+B +E1"),
    "23": Case(available="A1", request="+B", result="400 Module moduleB-1.0.0 not found"),
    "24": Case(
        available="A1 B E1",
        request="+E1",
        result="400 interface int required by module moduleE-1.0.0 is provided by multiple products: moduleA, moduleB",
    ),
    "25": Case(available="A1 A11 B' E1", request="+E1", result="+B' +E1"),
    "26": Case(available="A1 A11 B' C' E1", request="+E1", result="+C' +E1"),
    "27": Case(available="A1 O1 B' E1", enabled="A1 E1 O1", request="+B' -O1", result="+B' -O1 -A1"),
    # Differs: Okapi answers -A1 +B, an order in which it then waits for ever.
    "28": Case(available="A1 B E1", enabled="A1 E1", request="+B", result="+B -A1"),
    "29": Case(available="A1", request="-A1", result="400 Module moduleA-1.0.0 not found"),
    **{
        f"30 {request}": Case(available="A1 A11 E1", enabled="A1 E1", request=request, result="-E1 -A1")
        for request in ("-A1", "-moduleA", "-A1 -E1", "-E1 -A1", "-moduleE -moduleA")
    },
    "31": Case(available="A1", request="+A1 +A1", result="+A1 =A1"),
    "32": Case(
        available="inta b32 c32",
        request="+inta +b32 +c32",
        result="400 " + ". ".join(incompatible(f"mod{each}-1.0.0", "inta", "2.0", "1.0/moda-1.0.0") for each in "bc"),
    ),
    "33": Case(available="P1 P2", request="+P1 +P2", result="400 Cannot remove module prov-1.0.0 which is explicitly given"),
    "33 reversed": Case(
        available="P1 P2", request="+P2 +P1", result="400 Cannot remove module prov-2.0.0 which is explicitly given"
    ),
    "34": Case(
        available="P1 P2 R1 R2",
        request="+R1 +R2",
        result=f"400 {incompatible('req2-1.0.0', 'i1', '2.0', '1.0/prov-1.0.0')}",
    ),
    "35": Case(available="P1 P2 R1 R2 X Y", request="+Y +R1", result="+P1 +R1 +X +Y"),
    "36": Case(
        available=STORAGE,
        enabled="O1 S1",
        request="+O1 +S2",
        result=f"400 {incompatible('ot-1.0.0', 'int', '1.0', '2.0/st-1.0.1')}",
    ),
    **{
        f"37 {request}": Case(available=STORAGE, enabled="O1 S1", request=request, result="S2<S1 O2<O1")
        for request in ("+O2", "+S2", "+st", "+ot", "+ot +st")
    },
    "38": Case(available=f"{STORAGE} F1 G1", enabled="O1 S1", request="+S2", result="S2<S1 O2<O1"),
    "39": Case(available=STORAGE, enabled="O2 S2", request="+S1", result="S1<S2 O1<O2"),
    "40": Case(available="S1t S2t O1 O3 ont", enabled="O1 S1t", request="+S2t", result="S2t<S1t +ont O3<O1"),
    "41": Case(
        available="a41 b41", request="+a41 +b41", result="400 Some modules cannot be topological sorted: modA-1.0.0, modB-1.0.0"
    ),
    "42": Case(available="a42 b41", request="+a42 +b41", result="+a42 +b41"),
    "42 disable": Case(available="a42 b41", enabled="a42 b41", request="-a42 -b41", result="-b41 -a42"),
    "43": Case(available="a43 b43 c43 d43", request="+d43 +b43", result="+d43 +a43 +b43"),
    # Differs: Okapi refuses with 500 when the chain is longer than its number of rounds; ours has no such number.
    "44": Case(available="k1 k2 k3 k4 k5", request="+k5", result="+k1 +k2 +k3 +k4 +k5"),
    "45": Case(available="okapi m45", enabled="okapi", request="+m45", result="+m45"),
    "45 without": Case(available="m45", request="+m45", result="400 interface okapi required by module modA-1.0.0 not found"),
    "46": Case(available="alpha r46", request="+r46", result="+alpha +r46"),
    "46 releases": Case(
        available="alpha r46",
        request="+r46",
        result="400 interface i1 required by module req-1.0.0 not found",
        pre_release="false",
    ),
    "47": Case(
        available="basicA sample12 sample13 basic2",
        enabled="basicA sample12",
        upgrade=True,
        result=f"400 {incompatible('sample-1.3.0', 'bint', '1.0', '2.0/basic-2.0.0')}",
    ),
    "47 later": Case(
        available="basicA sample12 sample13 basic2 sample2",
        enabled="basicA sample12",
        upgrade=True,
        result="basic2<basicA sample2<sample12",
    ),
    "48": Case(available="L1 L2", request="+L1 -L2", result="400 Module level2-1.0.0 not found"),
    **{
        f"49 {' '.join(order)}": Case(
            available="mux mul1 mul2",
            request=" ".join(f"+{each}" for each in order),
            result=" ".join(f"+{each}" for each in order),
        )
        for order in itertools.permutations(("mux", "mul1", "mul2"))
    },
    "50": Case(available="T1 T2 business", enabled="T2 business", request="-T2", result="-T2 -business"),
    "51": Case(
        available="m51",
        request="+m51",
        result=(
            "400 interface unknown1 required by module mod-1.0.0 not found."
            " interface unknown2 required by module mod-1.0.0 not found"
        ),
    ),
    "51 unchecked": Case(available="m51", request="+m51", result="+m51", check=False),
    "52": Case(available=f"P1 {TWENTY.replace('+', '')}", request=TWENTY, result=f"+P1 {TWENTY}"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_request_comes_to_what_okapi_makes_of_it(case: Case) -> None:
    """Requirements B3, B7, E8."""
    assert answer(case) == case.result


def test_every_case_is_there() -> None:
    assert {int(name.split()[0]) for name in CASES} == set(range(1, 53))


def answer(case: Case) -> str:
    chosen = {MODULES[key].id: MODULES[key] for key in case.available.split()}
    enabled = tuple(MODULES[key].id for key in case.enabled.split())
    catalogue = visible(chosen, pre_release=case.pre_release, enabled=enabled)
    wanted = upgrades(enabled, catalogue) if case.upgrade else tuple(line(item) for item in case.request.split())
    names = {MODULES[key].id: key for key in case.available.split()}
    try:
        found = resolve(wanted, enabled=enabled, catalogue=catalogue, reinstall=case.reinstall, mend=case.mend, check=case.check)
    except ResolutionError as refusal:
        return f"400 {refusal}"
    return " ".join(shown(decision, names) for decision in found)


def line(item: str) -> Wanted:
    found: ModuleDescriptor | None = MODULES.get(item[1:])
    return Wanted(id=found.id if found else item[1:], verb=Verb.ENABLE if item[0] == "+" else Verb.DISABLE)


def shown(decision: Decision, names: dict[str, str]) -> str:
    if decision.module_from is not None:
        return f"{names[decision.module]}<{names[decision.module_from]}"
    return {"enable": "+", "disable": "-", "uptodate": "="}[decision.action] + names[decision.module]

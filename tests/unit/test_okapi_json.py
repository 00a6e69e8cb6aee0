"""JSON as Okapi prints it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.okapi_json import pretty, pretty_list

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "[ ]"),
        ({}, "{ }"),
        ({"a": 1}, '{\n  "a" : 1\n}'),
        ({"a": [1, "b", None, True]}, '{\n  "a" : [ 1, "b", null, true ]\n}'),
        ([{"a": []}, {"b": {}}], '[ {\n  "a" : [ ]\n}, {\n  "b" : { }\n} ]'),
        ({"a": {"b": [{"c": 1}]}}, '{\n  "a" : {\n    "b" : [ {\n      "c" : 1\n    } ]\n  }\n}'),
        ("ä\u2028", '"ä\u2028"'),
        ("\ud800", '"\\ud800"'),
    ],
)
def test_it_looks_so(value: object, text: str) -> None:
    assert pretty(value) == text


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_what_is_printed_reads_as_what_it_was(value: object) -> None:
    text = pretty(value)
    assert json.loads(text) == value
    assert json.loads(pretty_list([text, text])) == [value, value]
    assert pretty_list([text, text]) == pretty([value, value])


def test_what_is_nested_too_deep_is_printed_all_the_same() -> None:
    value: object = 1
    for _ in range(900):
        value = {"a": value}
    assert json.loads(pretty(value)) == value

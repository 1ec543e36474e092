"""The end of a JSON object in a stream."""

import json

import pytest

from g8node.wire.jsonend import ObjectEnd

OBJECTS = [
    {},
    {"a": 1},
    {"a": {"b": [1, {"c": "}"}]}, "d": '"{'},
    {"a": "\\", "b": '\\"', "c": "]]]", "ä": "\u2028"},
]


@pytest.mark.parametrize("value", OBJECTS)
def test_end_does_not_depend_on_the_pieces(value: object) -> None:
    data = json.dumps(value, ensure_ascii=False).encode()
    for before in (b"", b" \n\t"):
        stream = before + data + b"} trailing"
        for cut in range(len(stream)):
            end = ObjectEnd()
            found = end.feed(stream[:cut])
            length = found if found is not None else cut + (end.feed(stream[cut:]) or 0)
            assert stream[:length] == before + data


@pytest.mark.parametrize("data", [b"x", b"[]", b' "a"', b"}", b"1"])
def test_other_values_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="expected a JSON object"):
        ObjectEnd().feed(data)


def test_incomplete_object_has_no_end() -> None:
    end = ObjectEnd()
    assert [end.feed(part) for part in (b"", b" ", b"{", b'"a', b"\\", b'"}', b'": 1')] == [None] * 7
    assert end.feed(b"}") == 1

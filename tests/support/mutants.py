"""Files as crashes, disks, other programs and attackers leave them: mutants of a good one."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import yaml

#: what no reader expects where a number or a text stands
VALUES = (
    *(None, True, "", "x", [], {}, [[]], [1], {"a": 1}, "9" * 400, "\0", "\ud800", "x" * 5000),
    *("<b>&\x1b[31m", "\u202e", 0, -1, 1e308, 5e-324, 2**53 + 1, 2**63, -(2**64), 10**400, -0.5),
    *(float("nan"), float("inf"), float("-inf")),
)
NAMES = ("", "\0", "__class__", "x" * 300, "\ud800")
PIECES = (
    *(b"\0", b"\xff\xfe", b"\\ud800", b"NaN", b"9" * 5000, b"</script>", b"\r\n", b'"', b"}", b"]", b"#1", b"\n"),
    *(b"[" * 60_000, b'{"a":' * 60_000, b"- &a [*a]\n", b"!!python/object:os.system ", b"\xe2\x80\xa8"),
)
WHOLES = (b"", b"\n", b"null", b"[]", b"{}", b"[[]]", b"0", b'""', b"\xef\xbb\xbf", bytes(500), b"{}\n" * 100)
OPENINGS = {"[": "]", '{"a":': "}"}
_DEEP = "@deep@"

Mutation = Callable[[random.Random, bytes], bytes]


def _at(chance: random.Random, data: bytes) -> int:
    return chance.randrange(len(data)) if data else 0


def flip(chance: random.Random, data: bytes) -> bytes:
    """Another byte at one place."""
    at = _at(chance, data)
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


def flips(chance: random.Random, data: bytes) -> bytes:
    """Another byte at several places."""
    for _ in range(chance.randrange(2, 8)):
        data = flip(chance, data)
    return data


def digit(chance: random.Random, data: bytes) -> bytes:
    """Another digit in one of the numbers."""
    at = chance.choice([at for at, byte in enumerate(data) if byte in b"0123456789"] or [0])
    return data[:at] + str(chance.randrange(10)).encode() + data[at + 1 :]


def cut(chance: random.Random, data: bytes) -> bytes:
    """The end is gone."""
    return data[: _at(chance, data)]


def hole(chance: random.Random, data: bytes) -> bytes:
    """A part is gone, or zeros, as after a power cut."""
    at = _at(chance, data)
    end = min(len(data), at + chance.choice((1, 10, 4096)))
    return data[:at] + chance.choice((b"", bytes(end - at))) + data[end:]


def twice(chance: random.Random, data: bytes) -> bytes:
    """A part stands there twice."""
    at = _at(chance, data)
    return data[: at + chance.choice((1, 30, 3000))] + data[at:]


def insert(chance: random.Random, data: bytes) -> bytes:
    """Something stands there besides."""
    at = _at(chance, data)
    return data[:at] + chance.choice(PIECES) + data[at:]


def replaced(chance: random.Random, _: bytes) -> bytes:
    """Something else altogether."""
    return chance.choice(WHOLES)


def structure(chance: random.Random, data: bytes) -> bytes:
    """A value is gone, stands elsewhere or under another name, is of another kind, or is nested without end."""
    value = _parsed(data)
    if not (places := list(_places(value))):
        return flip(chance, data)
    holder, key = chance.choice(places)
    match chance.randrange(7):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[chance.choice((f"{key}x", *NAMES))] = holder.pop(key)
        case 2:
            other, its = chance.choice(places)
            holder[key] = json.loads(json.dumps(other[its]))
        case 3:
            holder[key] = _DEEP
        case 4 if isinstance(holder[key], (int, float)):
            holder[key] *= chance.choice((-1, 1000, 1e-9, 1e300))
        case _:
            holder[key] = chance.choice(VALUES)
    opening, depth = chance.choice([*OPENINGS]), chance.choice((60, 900, 50_000))
    return _written(value).replace(f'"{_DEEP}"'.encode(), f"{opening * depth}0{OPENINGS[opening] * depth}".encode())


def key_twice(chance: random.Random, data: bytes) -> bytes:
    """All keys of an object stand there twice."""
    value = _parsed(data)
    objects = [holder for holder, _ in _places(value) if isinstance(holder, dict)]
    if not objects:
        return twice(chance, data)
    text = _written(chance.choice(objects))
    return _written(value).replace(text, text[:-1] + b", " + text[1:], 1)


#: more of what changes values than of what breaks files
MUTATIONS: tuple[Mutation, ...] = (
    *(flip, flips, digit, digit, cut, hole, twice, insert, replaced, key_twice),
    *(structure,) * 4,
)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _written(value: Any) -> bytes:
    return json.dumps(value).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in `value`: the dict or list, and the key or index in it."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def in_a_line(mutation: Mutation) -> Mutation:
    """The same in one line of the file, which it may tear."""

    def mutate(chance: random.Random, data: bytes) -> bytes:
        lines = data.splitlines(keepends=True) or [b""]
        at = chance.randrange(len(lines))
        line = lines[at].rstrip(b"\n")
        return b"".join([*lines[:at], mutation(chance, line), lines[at][len(line) :], *lines[at + 1 :]])

    return mutate


def as_yaml(mutation: Mutation) -> Mutation:
    """The same in what YAML says, where JSON is not asked for."""

    def mutate(chance: random.Random, data: bytes) -> bytes:
        if mutation not in (structure, key_twice):
            return mutation(chance, data)
        return mutation(chance, _written(yaml.safe_load(data)))  # JSON is YAML

    return mutate


def between(start: bytes, end: bytes) -> Callable[[Mutation], Mutation]:
    """The same in what stands between the first `start` and the `end` that follows."""

    def within(mutation: Mutation) -> Mutation:
        def mutate(chance: random.Random, data: bytes) -> bytes:
            first = data.index(start) + len(start)
            last = data.index(end, first)
            return data[:first] + mutation(chance, data[first:last]) + data[last:]

        return mutate

    return within

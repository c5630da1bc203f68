"""Ways to damage a file, each from a seed. STABLEQUANT_FAULTS=100 tries 100 times as many as a usual test run."""

import json
import os

TIMES = int(os.environ.get("STABLEQUANT_FAULTS", "1"))
VALUES = (
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    1e30,
    10**30,
    0.5,
    "",
    "x",
    "../x",
    "/",
    "\ud800",
    [],
    [[]],
    {},
    [None],
    [1, 2],
    {"a": {}},
)
WRITTEN = ("NaN", "1e999", "-Infinity", "[" * 5000, "1" * 5000, '{"a": 1, "a": 2}', "\x00", "tru")


def seeds(usual):
    return range(usual * TIMES)


def places(value, path=()):
    """Every place in a JSON value, the whole one first."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def damaged_json(text, rng):
    """A JSON text with one place replaced, removed, renamed or written wrongly; sometimes its bytes are damaged."""
    if rng.random() < 0.2:
        return damaged_bytes(text.encode(), rng)
    data = json.loads(text)
    *path, last = rng.choice(list(places(data))[1:])
    parent = data
    for key in path:
        parent = parent[key]
    how = rng.choice(("value", "value", "text", "remove", "rename"))
    if how == "value":
        parent[last] = rng.choice(VALUES)
    elif how == "text":
        parent[last] = "@@"
    elif how == "rename" and isinstance(parent, dict):
        parent[rng.choice(("", "x", "weight", "é"))] = parent.pop(last)
    else:
        del parent[last]
    return json.dumps(data).replace('"@@"', rng.choice(WRITTEN)).encode()


def damaged_bytes(content, rng):
    """Bytes cut short, flipped, doubled, inserted or swapped for zeros."""
    content, at = bytearray(content), rng.randrange(len(content))
    how = rng.choice(("cut", "flip", "flip", "insert", "zeros", "double"))
    if how == "cut":
        return bytes(content[:at])
    if how == "flip":
        content[at] ^= 1 << rng.randrange(8)
    elif how == "insert":
        content[at:at] = rng.randbytes(rng.randrange(1, 9))
    elif how == "zeros":
        content[at : at + rng.randrange(1, 64)] = bytes(8)
    else:
        content[at:at] = content[at : at + 40]
    return bytes(content)

"""Seeded damage to files: to their bytes, to the values of their JSON, and to what their formats count and point at."""

import contextlib
import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

Rng = Random

# Numbers at which whole numbers of a width end, and those beside them.
_EDGES = (0, 1, 2, 3, 7, 8, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
_TEXTS = (
    "", " ", "x", "0", "null", "none", "\0", "\n", "é\u2028", "\u202eabc", "\ud83d", "<script>alert(1)</script>",
    "\x1b[31m", "../../x", "/", "~nouser", "%s{}{0}", "{{ 1 // 0 }}", "{% for a in b %}", "a" * 5000, "NaN", "cpu",
)  # fmt: skip


def value(rng: Rng) -> Any:
    """Returns a JSON value of any kind."""
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: rng.choice((None, True, False)),
        lambda: rng.choice((1, -1)) * rng.choice(_EDGES),
        lambda: rng.choice((10**30, -(10**30), 10**400)),
        lambda: rng.choice((0.5, -1.5, 1e-300, 1e308, float("nan"), float("inf"), float("-inf"))),
        lambda: rng.choice(_TEXTS),
        lambda: [],
        lambda: {},
        lambda: [value(rng) for _ in range(rng.randint(1, 3))],
        lambda: {rng.choice(_TEXTS): value(rng) for _ in range(rng.randint(1, 3))},
        lambda: _nested(rng.choice((50, 600))),
    )
    return rng.choice(kinds)()


def _nested(depth: int) -> Any:
    found: Any = 0
    for level in range(depth):
        found = [found] if level % 2 else {"a": found}
    return found


def mutated_value(rng: Rng, whole: Any) -> Any:
    """Returns a copy of a JSON value with one or a few of its parts replaced, removed, repeated, renamed or wrapped."""
    whole = json.loads(json.dumps(whole))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = [((), None, None), *_places(whole)]
        _, parent, key = rng.choice(places[1:] if len(places) > 1 and rng.random() < 0.97 else places[:1])
        if parent is None:
            whole = rng.choice((value(rng), [whole], {"a": whole}))
            continue
        _change(rng, parent, key, whole)
    return whole


def _places(whole: Any, path: tuple = ()) -> list[tuple[tuple, Any, Any]]:
    """Returns (path, parent, key) of all parts of a value."""
    keys = whole if isinstance(whole, dict) else range(len(whole)) if isinstance(whole, list) else ()
    found = []
    for key in list(keys)[:200]:
        found.append(((*path, key), whole, key))
        if len(path) < 8:
            found += _places(whole[key], (*path, key))
    return found


def _change(rng: Rng, parent: Any, key: Any, whole: Any) -> None:
    action = rng.choice(("replace",) * 5 + ("near", "near", "remove", "remove", "wrap", "other", "rename", "repeat"))
    old = parent[key]
    if action == "near" and isinstance(old, (int, float)) and not isinstance(old, bool) and abs(old) < 2**63:
        parent[key] = rng.choice((old + 1, old - 1, -old, old * 2, old * 10**6, float(old), str(old), [old]))
    elif action == "remove":
        del parent[key]
    elif action == "wrap":
        parent[key] = rng.choice(([old], {"a": old}, str(old), [old, old]))
    elif action == "other":
        other = rng.choice(_places(whole))
        parent[key] = json.loads(json.dumps(other[1][other[2]]))
    elif action == "rename" and isinstance(parent, dict):
        parent[rng.choice((*_TEXTS, str(key) + "x", str(key).upper()))] = parent.pop(key)
    elif action == "repeat" and isinstance(parent, list):
        parent[:] = parent * rng.choice((2, 50))
    else:
        parent[key] = value(rng)


def text_of(rng: Rng, found: Any) -> bytes:
    """Returns JSON as a careless program may write it: half characters, NaN, deep nesting, a byte order mark."""
    text = json.dumps(found, ensure_ascii=rng.random() < 0.7)
    odd = rng.random()
    if odd < 0.02:
        text = "[" * 100_000
    elif odd < 0.04:
        text = text.replace("{", '{"a":' * 3000 + "{", 1) + "}" * 3000
    elif odd < 0.05:
        text = "\ufeff" + text
    return text.encode("utf-8", "surrogatepass")


def mutated_bytes(rng: Rng, data: bytes, begin: int = 0, end: int | None = None) -> bytes:
    """Returns bytes with some between `begin` and `end` changed, removed or repeated, or with the rest cut off."""
    end = len(data) if end is None else min(end, len(data))
    found = bytearray(data)
    if end <= begin:
        return bytes(rng.randbytes(rng.randint(0, 40)))
    at = rng.randrange(begin, end)
    size = min(rng.choice((1, 2, 4, 8, 16, 100, 4096)), len(found) - at)
    action = rng.choice(
        ("flip", "flip", "flip", "number", "number", "cut", "remove", "insert", "zero", "random", "swap")
    )
    if action == "flip":
        for _ in range(rng.choice((1, 1, 2, 8))):
            found[rng.randrange(begin, end)] ^= 1 << rng.randrange(8)
    elif action == "number":
        width, form = rng.choice(((1, "<B"), (2, "<H"), (4, "<I"), (8, "<Q"), (4, ">I"), (8, ">Q")))
        at = min(at, max(len(found) - width, 0))
        found[at : at + width] = struct.pack(form, rng.choice(_EDGES) % 2 ** (8 * width))
    elif action == "cut":
        del found[at:]
    elif action == "remove":
        del found[at : at + size]
    elif action == "insert":
        found[at:at] = rng.choice((rng.randbytes(size), b"\0" * size, bytes(found[at : at + size]) * 3))
    elif action == "zero":
        found[at : at + size] = b"\0" * size
    elif action == "random":
        found[at : at + size] = rng.randbytes(size)
    else:
        other = rng.randrange(begin, end)
        found[at : at + size], found[other : other + size] = found[other : other + size], found[at : at + size]
    return bytes(found)


def _json(rng: Rng, data: bytes) -> bytes:
    if rng.random() < 0.1:
        return mutated_bytes(rng, data)
    return text_of(rng, mutated_value(rng, json.loads(data)))


def _json_lines(rng: Rng, data: bytes) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(max(len(lines) - 1, 1))
    with contextlib.suppress(ValueError):
        lines[at] = _json(rng, lines[at])
    return mutated_bytes(rng, data) if rng.random() < 0.15 else b"\n".join(lines)


def _safetensors(rng: Rng, data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    kind = rng.random()
    if kind < 0.15:
        return mutated_bytes(rng, data)
    if kind < 0.3:
        return mutated_bytes(rng, data, 0, 8 + length)
    header = text_of(rng, mutated_value(rng, json.loads(data[8 : 8 + length])))
    stated = len(header) if rng.random() < 0.95 else rng.choice(_EDGES)
    return stated.to_bytes(8, "little") + header + data[8 + length :]


def _zip(rng: Rng, data: bytes) -> bytes:
    """Damages a member (and writes the archive around it anew, so that its checksum is right) or the archive."""
    kind = rng.random()
    if kind < 0.25:
        return mutated_bytes(rng, data, max(0, len(data) - 2000))
    if kind < 0.35:
        return mutated_bytes(rng, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    index = next((i for i, (info, _) in enumerate(members) if info.filename.endswith(".pkl")), 0)
    if rng.random() < 0.2:
        index = rng.randrange(len(members))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number, (info, content) in enumerate(members):
            name, form = info.filename, zipfile.ZIP_STORED
            if number == index:
                content = mutated_bytes(rng, content)
                odd = rng.random()
                name = rng.choice(("../x", "/x", "archive/other", "")) if odd < 0.05 else name
                form = zipfile.ZIP_DEFLATED if 0.05 < odd < 0.1 else form
            archive.writestr(zipfile.ZipInfo(name), content, form)
    return out.getvalue()


def _head(size: int) -> Callable[[Rng, bytes], bytes]:
    """Damages mostly the beginning of a file."""
    return lambda rng, data: mutated_bytes(rng, data, 0, size if rng.random() < 0.85 else None)


def _tail(rng: Rng, data: bytes) -> bytes:
    return mutated_bytes(rng, data, max(0, len(data) - 1500) if rng.random() < 0.6 else 0)


def _gzip(rng: Rng, data: bytes) -> bytes:
    if rng.random() < 0.4:
        return mutated_bytes(rng, data)
    return gzip.compress(mutated_bytes(rng, gzip.decompress(data)))


def _template(rng: Rng, data: bytes) -> bytes:
    parts = ("{% for x in messages %}", "{{ x.y.z }}", "{{ 1 // 0 }}", "{{ raise_exception('no') }}", "{% endfor %}")
    parts += ("{{ messages[99] }}", "{{ 'a' * 30000000000 }}", "{{ ''.__class__.__mro__ }}", "{% include 'x' %}", "{{")
    at = rng.randrange(len(data) + 1)
    added = data[:at] + rng.choice(parts).encode() + data[at:]
    return added if rng.random() < 0.6 else mutated_bytes(rng, data)


_BY_SUFFIX: dict[str, Callable[[Rng, bytes], bytes]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".safetensors": _safetensors,
    ".bin": _zip,
    ".gguf": _head(12_000),
    ".parquet": _tail,
    ".gz": _gzip,
    ".jinja": _template,
}


def mutated(rng: Rng, name: str, data: bytes) -> bytes:
    """Returns a file's bytes, damaged as its format (by its suffix) makes interesting."""
    return _BY_SUFFIX.get(Path(name).suffix, mutated_bytes)(rng, data)


def mutate(rng: Rng, folder: Path, names: Sequence[str]) -> str:
    """Damages one of a folder's files, or puts something else in its place; returns what was done, for a report."""
    name = rng.choice(list(names))
    file, kind = folder / name, rng.random()
    data = file.read_bytes()
    # Another file under the same name: what is mapped of the old one stays as it is.
    file.unlink()
    if kind < 0.01:
        return f"removed {name}"
    if kind < 0.02:
        file.mkdir()
        return f"a folder in place of {name}"
    if kind < 0.03:
        file.write_bytes(b"")
        return f"emptied {name}"
    file.write_bytes(mutated(rng, name, data))
    return f"damaged {name}"

"""Damages files: random bytes, and changes that pass the outer checks of known formats, such as checksums."""

import contextlib
import csv
import io
import json
import random
import struct
import zlib
from typing import Any

TOKENS = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xff", b"\x1b[2J\x1b]0;x\x07", b"\r\n", b"\n", b",", b'"', b";", b"\t",
    b"../", b"/etc/passwd", b"=cmd|' /C calc'!A0", b"[/]", b"[bold red]", b"nan", b"NaN", b"inf", b"-1", b"1e999",
    b"9" * 30, b"null", b"!!python/object/apply:os.system ['true']", b"&a [*a]", b"*a", b"{", b"}", b"[" * 40,
    b": ", b"- ", b"# ", b"extends: any.yaml\n", b"<<: ", b"\xf0\x9f\xa6\x8a", "\u202e\u2028".encode(), b"'", b"\\",
)  # fmt: skip
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 10**30, 1e308, -0.0, 2**31, 2**63, "", "../x", "/etc/passwd", "\x1b[2J", "mini", "5",
    "nan", [], {}, [[]], {"a": 1}, [None], "x" * 5000, "\ud800", "auto", "none", "all", "\0",
)  # fmt: skip


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Apply one to four random changes to `data`."""
    for _ in range(draw.choice((1, 1, 1, 2, 2, 4))):
        kinds = [_flip_bits, _replace_bytes, _insert_token, _cut_end, _drop_part, _repeat_part, _write_number]
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            kinds += [_change_chunk] * 6
        elif data[:4] in (b"II*\0", b"MM\0*"):
            kinds += [_change_tag] * 6
        elif data[:1] == b"{" and b"\n{" not in data.rstrip():
            kinds += [_change_json] * 12
        elif data[:1] == b"{":
            kinds += [_change_line] * 6
        elif b"," in data.split(b"\n", 1)[0] and b"\n" in data:
            kinds += [_change_cell] * 12
        elif data[8:9] == b"{":
            kinds += [_change_header] * 12
        data = draw.choice(kinds)(data, draw)
    return data


def _draw_offset(data: bytes, draw: random.Random) -> int:
    """Draw an offset, in 40 % of cases within the first 128 bytes, where most formats have their header."""
    most = len(data) if draw.random() < 0.6 else min(len(data), 128)
    return draw.randrange(most) if most else 0


def _flip_bits(data: bytes, draw: random.Random) -> bytes:
    copy = bytearray(data)
    for _ in range(draw.choice((1, 1, 4, 16)) if data else 0):
        copy[_draw_offset(data, draw)] ^= 1 << draw.randrange(8)
    return bytes(copy)


def _replace_bytes(data: bytes, draw: random.Random) -> bytes:
    at = _draw_offset(data, draw)
    return data[:at] + draw.randbytes(draw.choice((1, 2, 4, 16))) + data[at + draw.choice((0, 1, 4)) :]


def _insert_token(data: bytes, draw: random.Random) -> bytes:
    at = _draw_offset(data, draw)
    token = draw.choice(TOKENS)
    return data[:at] + token + data[at + draw.choice((0, len(token))) :]


def _cut_end(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _drop_part(data: bytes, draw: random.Random) -> bytes:
    at = _draw_offset(data, draw)
    return data[:at] + data[at + draw.choice((1, 4, 64)) :]


def _repeat_part(data: bytes, draw: random.Random) -> bytes:
    at, size = _draw_offset(data, draw), draw.choice((1, 8, 64, 512))
    return data[:at] + data[at : at + size] * draw.choice((2, 3, 50)) + data[at + size :]


def _write_number(data: bytes, draw: random.Random) -> bytes:
    at, form = _draw_offset(data, draw), draw.choice(("<B", "<H", ">H", "<I", ">I"))
    size = struct.calcsize(form)
    return data[:at] + struct.pack(form, draw.choice(NUMBERS) % 256**size) + data[at + size :]


def _change_chunk(data: bytes, draw: random.Random) -> bytes:
    """Change, drop, repeat or add a chunk of a PNG and write the correct checksum."""
    chunks, at = list[tuple[bytes, bytes]](), 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks:
        return data
    which, what = draw.randrange(len(chunks)), draw.random()
    name, body = chunks[which]
    if what < 0.7:
        if name == b"IDAT" and draw.random() < 0.5:
            with contextlib.suppress(zlib.error):
                body = zlib.compress(draw.choice((_flip_bits, _cut_end, _repeat_part))(zlib.decompress(body), draw))
        else:
            body = draw.choice((_flip_bits, _replace_bytes, _cut_end, _write_number))(body, draw)
        chunks[which] = (name, body)
    elif what < 0.8:
        chunks.pop(which)
    elif what < 0.9:
        chunks.insert(draw.randrange(len(chunks)), chunks[which])
    else:
        extra = draw.choice((b"tRNS", b"PLTE", b"acTL", b"fcTL", b"eXIf", b"iCCP", b"zTXt", b"iTXt", b"gAMA", b"sRGB"))
        chunks.insert(1, (extra, draw.randbytes(draw.choice((0, 1, 6, 26, 256, 769)))))
    packed = [struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks]
    return data[:8] + b"".join(packed)


def _change_tag(data: bytes, draw: random.Random) -> bytes:
    """Change a number in the directory of a TIFF."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack(f"{order}I", data[4:8].ljust(4, b"\0"))
    if start + 2 > len(data):
        return _flip_bits(data, draw)
    (count,) = struct.unpack(f"{order}H", data[start : start + 2])
    at = start + 2 + 12 * draw.randrange(count or 1) + draw.choice((0, 2, 4, 8))
    form = draw.choice(("H", "I"))
    value = draw.choice((*NUMBERS, 3, 4, 5, 8, 16, 32, 64, 32773, 34712, 259, 273, 330)) % 256 ** struct.calcsize(form)
    return data[:at] + struct.pack(order + form, value) + data[at + struct.calcsize(form) :]


def _change_json(data: bytes, draw: random.Random) -> bytes:
    """Change or delete one value of a JSON document."""
    try:
        body = json.loads(data)
    except ValueError:
        return _replace_bytes(data, draw)
    _change_value(body, draw)
    return json.dumps(body).encode("utf-8", "surrogatepass")


def _change_value(node: Any, draw: random.Random) -> None:
    while isinstance(node, dict | list) and node:
        key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
        if isinstance(node[key], dict | list) and node[key] and draw.random() < 0.85:
            node = node[key]
        elif draw.random() < 0.15:
            del node[key]
            return
        elif isinstance(node[key], int | float) and draw.random() < 0.4:
            node[key] = draw.choice((node[key] + 1, -node[key], node[key] * 1000, node[key] / 3, str(node[key])))
            return
        else:
            node[key] = draw.choice(VALUES)
            return


def _change_line(data: bytes, draw: random.Random) -> bytes:
    """Change a value in one line of JSON lines."""
    lines = data.split(b"\n")
    which = draw.randrange(len(lines))
    lines[which] = _change_json(lines[which], draw)
    return b"\n".join(lines)


def _change_cell(data: bytes, draw: random.Random) -> bytes:
    """Change one cell of a CSV table, possibly a column name, with correct quoting."""
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")))
    except csv.Error:
        return _replace_bytes(data, draw)
    row = draw.choice([row for row in rows if row] or [[""]])
    at = draw.randrange(len(row))
    other = draw.choice([row for row in rows if row] or [[""]])
    texts = [
        "",
        " ",
        "None",
        "0012",
        "4e49",
        "3,5",
        "inf",
        "=1+1",
        "\x1b[2J",
        "../x",
        "a/../b",
        "x" * 9000,
        "demo_0001.jpg",
    ]
    row[at] = draw.choice(
        [*texts, "5.0000001", "-1", "1e-320", "٣", "\u202e", draw.choice(other), "ok", "failed", "true"]
    )
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator=draw.choice(("\n", "\r\n"))).writerows(rows)
    return stream.getvalue().encode("utf-8", "surrogateescape")


def _change_header(data: bytes, draw: random.Random) -> bytes:
    """Change a value in the header of a safetensors file, or a number in its tensors."""
    size = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + size], data[8 + size :]
    if draw.random() < 0.3:
        at = 4 * draw.randrange(max(1, len(body) // 4))
        value = draw.choice((float("nan"), float("inf"), 1e38, -1e38, 0.0, 1e-45))
        return data[: 8 + size] + body[:at] + struct.pack("<f", value) + body[at + 4 :]
    header = _change_json(header, draw)
    return len(header).to_bytes(8, "little") + header + body

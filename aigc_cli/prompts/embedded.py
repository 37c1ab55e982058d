"""Finds what a generator wrote into an image, in a picture that the image reader has open."""

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image

from aigc_cli.prompts.clean import as_text
from aigc_cli.prompts.comfyui import read_graph
from aigc_cli.prompts.comfyui_workflow import graph_of_workflow
from aigc_cli.prompts.programs import (
    MAX_TEXT,
    Recorded,
    is_fooocus,
    is_infotext,
    json_object,
    read_fooocus,
    read_infotext,
    read_invokeai,
    read_novelai,
)

_EXIF_IFD, _USER_COMMENT, _MAKER_NOTE, _SOFTWARE = 0x8769, 0x9286, 0x927C, 0x0131
_COMMENT_CODES = {b"ASCII\0\0\0": "ascii", b"UNICODE\0": "utf-16", b"JIS\0\0\0\0\0": "jis", bytes(8): "utf-8"}
NOTHING = Recorded()


def read_metadata(image: Image.Image) -> Recorded:
    """What is recorded of the making of an image: by its PNG texts, else by its EXIF.

    Read are Automatic1111 and Forge, Fooocus, ComfyUI, InvokeAI and NovelAI, in this order where there are several.
    Nothing in it is ever run, and nothing that is wrong with it raises: that is `bad_metadata` in `fault`.

    Args:
        image: opened and loaded; PNG may hold texts behind the pixels.
    """
    try:
        texts = {key: text for key, value in image.info.items() if isinstance(key, str) and (text := _text(value))}
        return _recognised(texts | _exif_texts(image))
    except Exception:  # whoever writes metadata, and however; the pixels are good
        return Recorded(fault="bad_metadata")


def _recognised(texts: Mapping[str, str]) -> Recorded:
    if any(len(texts.get(key, "")) > MAX_TEXT for key in _READ):
        return Recorded(fault="bad_metadata")
    candidates = (_parameters(texts), _comfy(texts), read_invokeai(texts), read_novelai(texts))
    found = [one for one in candidates if one is not None]
    return next((one for one in found if one.prompt or one.fault == "ambiguous_prompt"), found[0] if found else NOTHING)


_READ = ("parameters", "prompt", "workflow", "invokeai_metadata", "sd-metadata", "Dream", "Comment", "Description")


def _parameters(texts: Mapping[str, str]) -> Recorded | None:
    text = texts.get("parameters")
    if text is None:
        return None
    said = json_object(text)
    scheme = texts.get("fooocus_scheme", "")
    if said is not None:
        return read_fooocus(said) if scheme or is_fooocus(said) else None
    if scheme == "fooocus":
        return Recorded("fooocus", fault="bad_metadata")
    return read_infotext(text, "fooocus" if scheme else "a1111")


def _comfy(texts: Mapping[str, str]) -> Recorded | None:
    if "prompt" not in texts and "workflow" not in texts:
        return None
    graph = json_object(texts.get("prompt"))
    if graph is None and (workflow := json_object(texts.get("workflow"))) is not None:
        graph = graph_of_workflow(workflow)
    if graph is None:
        # Easy Diffusion and others write a plain text under the same name
        starts = texts.get("prompt", texts.get("workflow", "")).lstrip()[:1]
        return Recorded("comfyui", fault="bad_metadata") if starts == "{" else None
    return read_graph(graph)


# --- texts


def _text(value: Any) -> str:
    """A text of an image; what was written as UTF-8 into a chunk that PNG reads as Latin-1 is read again."""
    if type(value) is str and not value.isascii():  # Pillow gives UTF-8 chunks a type of their own
        with contextlib.suppress(UnicodeError):
            return value.encode("latin-1").decode("utf-8")
    return str(value) if isinstance(value, str) else ""


def _exif_texts(image: Image.Image) -> dict[str, str]:
    """Texts of an image's EXIF under the names that PNG has for them."""
    exif = image.getexif()
    if not exif:
        return {}
    texts: dict[str, str] = {}
    for value in exif.values():  # ComfyUI takes any fields: "prompt:{...}" and "workflow:{...}"
        name, colon, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
        if colon and name.lower() in ("prompt", "workflow"):
            texts[name.lower()] = rest
    inner = exif.get_ifd(_EXIF_IFD)
    comment = _user_comment(inner.get(_USER_COMMENT, exif.get(_USER_COMMENT)), exif.endian == "<")
    if as_text(exif.get(_SOFTWARE)).startswith("Fooocus"):
        note = inner.get(_MAKER_NOTE, exif.get(_MAKER_NOTE))
        scheme = note.decode("latin-1") if isinstance(note, bytes) else as_text(note)
        return texts | {"parameters": comment, "fooocus_scheme": scheme.strip("\0") or "a1111"}
    said = json_object(comment)
    if said is not None and isinstance(said.get("prompt"), dict):
        return texts | {"prompt": json.dumps(said["prompt"])}
    if is_infotext(comment) or (said is not None and is_fooocus(said)):  # cameras and telephones write comments as well
        texts["parameters"] = comment
    return texts


def _user_comment(value: Any, little: bool) -> str:
    """EXIF's UserComment, of which the first eight bytes say how the rest is written.

    UNICODE means UTF-16 in an order that the standard leaves open: the byte order mark decides, else the order in
    which more of it is plain ASCII, as settings always are, else the one of the file.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        return ""
    code, rest = value[:8], value[8:]
    kind = _COMMENT_CODES.get(code)
    if kind is None:
        kind, rest = "utf-8", value
    if kind == "utf-16":
        return _utf16(rest, little)
    return rest.rstrip(b"\0").decode("iso2022_jp" if kind == "jis" else "utf-8", "replace")


def _utf16(data: bytes, little: bool) -> str:
    data = data[: len(data) // 2 * 2]
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace").rstrip("\0")
    low, high = (sum(1 for a, b in zip(data[i::2], data[1 - i :: 2], strict=True) if a and not b) for i in (0, 1))
    order = little if low == high else low > high
    return data.decode("utf-16-le" if order else "utf-16-be", "replace").rstrip("\0")

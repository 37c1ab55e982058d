"""Reads the generation record from an image's metadata."""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

from PIL import Image

from aigc_cli.prompts.any_program import read_any_program, read_object
from aigc_cli.prompts.clean import to_text
from aigc_cli.prompts.comfyui import read_graph, read_workflow
from aigc_cli.prompts.infotext import read_infotext
from aigc_cli.prompts.programs import (
    read_easy_diffusion,
    read_fooocus,
    read_invokeai,
    read_midjourney,
    read_novelai,
)
from aigc_cli.prompts.record import MAX_TEXT, GenerationRecord, parse_json_object
from aigc_cli.prompts.stealth import read_stealth

_EXIF_IFD, _USER_COMMENT, _MAKER_NOTE, _SOFTWARE, _MODEL = 0x8769, 0x9286, 0x927C, 0x0131, 0x0110
_COMMENT_CODES = {b"ASCII\0\0\0": "utf-8", b"JIS\0\0\0\0\0": "iso2022_jp", bytes(8): "utf-8"}
_XMP, _MAX_XMP = "XML:com.adobe.xmp", 1 << 17  # characters; a longer packet holds more than a prompt and settings
_XMP_COMMENT = "{http://ns.adobe.com/exif/1.0/}UserComment"
_READ = (
    *("parameters", "prompt", "workflow", "invokeai_metadata", "sd-metadata", "Dream", "Comment", "Description"),
    *("UserComment", _XMP),
)
_PLACEHOLDERS = ("unknown", "none", "null", "prompt", "positive prompt")
NO_RECORD = GenerationRecord()


def read_embedded(image: Image.Image) -> GenerationRecord:
    """Read the generation record from the texts, the EXIF, the XMP and the pixels of a loaded image.

    Where several have one, the first with a prompt is taken: the comment in EXIF, `parameters`, ComfyUI's graph, the
    texts of the other programs, XMP, and last what is hidden in the pixels (see `read_stealth`). Never raises: damaged
    metadata give the fault bad_metadata.
    """
    try:
        texts = {str(key): _decode_text(text) for key, text in image.info.items() if isinstance(text, str) and text}
        packet = image.info.get("xmp")
        if isinstance(packet, bytes):
            texts.setdefault(_XMP, packet.decode("utf-8", "replace"))
        record = _parse_texts(texts | _read_exif(image))
        if record == NO_RECORD and (hidden := read_stealth(image)):
            record = read_any_program(hidden) or NO_RECORD
        return record
    except Exception:  # untrusted metadata raise exceptions of any type; the pixels are still usable
        return GenerationRecord(fault="bad_metadata")


def _parse_texts(texts: Mapping[str, str]) -> GenerationRecord:
    if any(len(texts.get(key, "")) > MAX_TEXT for key in _READ):
        return GenerationRecord(fault="bad_metadata")
    parameters, graph = _read_parameters(texts), _read_comfyui(texts)
    if parameters is not None and graph is not None:
        parameters = _fill_placeholders(parameters, graph)
    others = (read(texts) for read in (read_invokeai, read_novelai, read_easy_diffusion, read_midjourney, _read_xmp))
    found = [one for one in (parameters, graph, *others) if one is not None]
    decided = [one for one in found if one.prompt or one.fault == "ambiguous_prompt"]
    return next(iter(decided + found), NO_RECORD)


def _read_parameters(texts: Mapping[str, str]) -> GenerationRecord | None:
    scheme, comment = texts.get("fooocus_scheme", ""), texts.get("UserComment", "")
    if not scheme and (record := read_any_program(comment)) is not None:
        return record
    text = comment if scheme and comment else texts.get("parameters")
    if text is None:
        return None
    fields = parse_json_object(text)
    if fields is not None:
        return read_fooocus(fields) if scheme else read_object(fields)
    if scheme == "fooocus":
        return GenerationRecord("fooocus", fault="bad_metadata")
    return read_infotext(text, "fooocus" if scheme else "a1111")


def _fill_placeholders(record: GenerationRecord, graph: GenerationRecord) -> GenerationRecord | None:
    """Correct the record that nodes of ComfyUI write beside the graph; None if the graph alone counts.

    These nodes write placeholders for inputs that are not connected: the prompt "unknown", no model, the seed 0.
    """
    if (record.prompt or "unknown").lower().strip(" .") in _PLACEHOLDERS:
        return None
    settings = {name: value for name, value in graph.get_settings().items() if value is not None}
    given = record.get_settings()
    unset = {name: value for name, value in settings.items() if given[name] in (None, "unknown", "0")}
    return dataclasses.replace(record, **unset)


def _read_comfyui(texts: Mapping[str, str]) -> GenerationRecord | None:
    if "prompt" not in texts and "workflow" not in texts:
        return None
    graph, workflow = (parse_json_object(texts.get(name)) for name in ("prompt", "workflow"))
    if graph:
        return read_graph(graph, workflow=workflow)
    record = read_workflow(workflow) if workflow else None
    if record is None:
        # Easy Diffusion and others store a plain text as `prompt`
        starts = texts.get("prompt", texts.get("workflow", "")).lstrip()[:1]
        return GenerationRecord("comfyui", fault="bad_metadata") if starts == "{" else None
    return record


def _decode_text(value: str) -> str:
    """Decode a text; UTF-8 in a chunk that PNG defines as Latin-1 is decoded as UTF-8."""
    if type(value) is str and not value.isascii():  # Pillow returns UTF-8 chunks as a subclass of str
        with contextlib.suppress(UnicodeError):
            return value.encode("latin-1").decode("utf-8")
    return str(value)


def _read_exif(image: Image.Image) -> dict[str, str]:
    """The texts in an image's EXIF, by the names that they have in PNG."""
    exif = image.getexif()
    if not exif:
        return {}
    texts: dict[str, str] = {}
    for value in exif.values():  # ComfyUI uses arbitrary fields: "prompt:{...}", "workflow:{...}"
        name, colon, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
        if colon and name.lower() in ("prompt", "workflow"):
            texts[name.lower()] = rest
    inner = exif.get_ifd(_EXIF_IFD)
    comment = _decode_user_comment(inner.get(_USER_COMMENT, exif.get(_USER_COMMENT)), exif.endian == "<")
    if to_text(exif.get(_SOFTWARE)).startswith("Fooocus"):
        note = inner.get(_MAKER_NOTE, exif.get(_MAKER_NOTE))
        scheme = note.decode("latin-1") if isinstance(note, bytes) else to_text(note)
        texts["fooocus_scheme"] = scheme.strip("\0") or "a1111"
    if "sui_image_params" in (model := to_text(exif.get(_MODEL))):  # earlier versions of SwarmUI
        comment = model
    return texts | {"UserComment": comment} if comment else texts


def _read_xmp(texts: Mapping[str, str]) -> GenerationRecord | None:
    """The record in the comment of an XMP packet, as Draw Things writes it."""
    packet = texts.get(_XMP, "")
    if "UserComment" not in packet or len(packet) > _MAX_XMP:
        return None
    if "<!DOCTYPE" in packet:  # XMP has none; its entities could grow without end
        return None
    try:
        root = ET.fromstring(packet.strip("\0\ufeff \n"))  # noqa: S314  (safe without a document type)
    except ET.ParseError:  # cameras and editors write XMP too; what is wrong with it does not matter
        return None
    comment = root.find(f".//{_XMP_COMMENT}")
    return None if comment is None else read_any_program("".join(comment.itertext()).strip())


def _decode_user_comment(value: Any, little: bool) -> str:
    """Decode EXIF's UserComment; its first eight bytes name the encoding.

    UNICODE means UTF-16, but the standard does not fix the byte order. The byte order mark decides; without one, the
    order that gives more ASCII characters, since settings are mostly ASCII; if equal, the order of the file, `little`.
    Some programs write UTF-8 all the same: it has no zero bytes, while settings in UTF-16 have many.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        return ""
    if not value.startswith(b"UNICODE\0"):
        encoding = _COMMENT_CODES.get(value[:8])
        return (value[8:] if encoding else value).rstrip(b"\0").decode(encoding or "utf-8", "replace")
    if b"\0" not in (text := value[8:].rstrip(b"\0")):
        with contextlib.suppress(UnicodeDecodeError):
            return text.decode()
    data = value[8 : len(value) // 2 * 2]
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace").rstrip("\0")
    low, high = (sum(1 for a, b in zip(data[i::2], data[1 - i :: 2], strict=True) if a and not b) for i in (0, 1))
    order = little if low == high else low > high
    return data.decode("utf-16-le" if order else "utf-16-be", "replace").rstrip("\0")

"""The generation record of an image in every form that a program writes, and with damaged metadata."""

import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from written import (
    A1111,
    A1111_PROMPT,
    A1111_SETTINGS,
    DREAM,
    FOOOCUS,
    FOOOCUS_A1111,
    INVOKEAI,
    NOVELAI,
    SD_METADATA,
    comfy_png,
    comfy_webp,
    comment_exif,
    editor_workflow,
    encode_image,
    fooocus_exif,
    novelai_texts,
    plain_graph,
    png,
    unicode_comment,
)

from aigc_cli.images.reader import ImageFault, decode_image
from aigc_cli.prompts.clean import MAX_PROMPT
from aigc_cli.prompts.record import MAX_TEXT, GenerationRecord

PICTURE = Image.linear_gradient("L").resize((24, 16)).convert("RGB")


def read_record(data: bytes) -> GenerationRecord:
    return decode_image(data).record


def jpeg(exif: bytes, kind: str = "JPEG") -> bytes:
    return encode_image(PICTURE, kind, exif=exif)


def insert_chunk(chunk: bytes) -> bytes:
    """A PNG with this chunk (its name and content) before the pixels."""
    raw = encode_image(PICTURE, "PNG")
    where = raw.index(b"IDAT") - 4
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return raw[:where] + whole + raw[where:]


# --- Automatic1111 and Forge


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize(("order", "text_order"), [(">", "be"), ("<", "be"), (">", "le"), ("<", "le"), (">", "bom")])
def test_automatic1111_in_exif(order: str, text_order: str, kind: str) -> None:
    record = read_record(jpeg(comment_exif(unicode_comment(A1111, text_order), order), kind))
    assert (record.source, record.prompt, record.fault) == ("a1111", A1111_PROMPT, None)
    assert record.get_settings() == A1111_SETTINGS


@pytest.mark.parametrize("text", [A1111, A1111.replace("a (red:1.2) fox", "雪地里的(红色:1.2)狐狸 🦊, лиса")])
def test_automatic1111_in_png(text: str) -> None:
    """Pillow writes tEXt if Latin-1 suffices, else iTXt; other programs also write UTF-8 into tEXt."""
    for data in (png(PICTURE, parameters=text), insert_chunk(b"tEXtparameters\0" + text.encode())):
        record = read_record(data)
        assert record.get_settings() == A1111_SETTINGS
        assert record.raw == text[: text.index("\nNegative")]
        assert record.prompt == A1111_PROMPT.replace(
            "a red fox", "雪地里的红色狐狸 🦊, лиса" if "лиса" in text else "a red fox"
        )


@pytest.mark.parametrize("code", [b"ASCII\0\0\0", bytes(8), b""])
def test_comments_that_are_not_utf_16(code: bytes) -> None:
    assert read_record(jpeg(comment_exif(code + A1111.encode()))).prompt == A1111_PROMPT


@pytest.mark.parametrize(
    ("text", "prompt", "sampler"),
    [
        ("a fox\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 8x8", "a fox", "Euler a"),
        ("a fox\nNegative prompt: cat\nSteps: 2, Sampler: DDIM, Schedule type: Automatic, Seed: 1", "a fox", "DDIM"),
        ("a: b, c: d, e: f\nSteps: 20, Sampler: DDIM, Seed: 1, Size: 8x8", "a: b, c: d, e: f", "DDIM"),
        ("a fox\nSteps: 20, Sampler: DDIM, Seed: 1, Size: 8x8\nTemplate: a {fox}\nNegative: x", "a fox", "DDIM"),
        ("a fox\nSteps: 2, Sampler: DDIM, Seed: 1, Extra: \"a, Sampler: no\", Note: x", "a fox", "DDIM"),
        ("a fox, not\nNegative prompt: Steps: 1, Sampler: Heun, Seed: 1", "a fox, not", None),
        ("Negative prompt: a cat\nSteps: 20, Sampler: DDIM, Seed: 1", None, "DDIM"),
        ("Steps: 20, Sampler: DDIM, Seed: 1", None, "DDIM"),
        ("a fox", "a fox", None),
        ("Sampler: DDIM, Seed: 1, Steps: 20", None, "DDIM"),
    ],
)  # fmt: skip
def test_forms_of_parameters(text: str, prompt: str | None, sampler: str | None) -> None:
    record = read_record(png(PICTURE, parameters=text))
    assert (record.source, record.prompt, record.sampler) == ("a1111", prompt, sampler)


def test_comments_of_cameras_are_no_prompts() -> None:
    for comment in (b"ASCII\0\0\0Screenshot", b"\0" * 40, unicode_comment("at the lake, 2019"), b"UNICODE\0", b"UN"):
        assert read_record(jpeg(comment_exif(comment))) == GenerationRecord()


def test_parameters_of_an_unknown_program_are_ignored() -> None:
    for fields in ({"prompt": "a fox", "model": "m"}, {"sui_image_params": "a fox"}, {"c": 5, "uc": ""}):
        assert read_record(png(PICTURE, parameters=json.dumps(fields))) == GenerationRecord()


# --- Fooocus, InvokeAI, NovelAI


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_fooocus(kind: str) -> None:
    for text, scheme in ((json.dumps(FOOOCUS), "fooocus"), (FOOOCUS_A1111, "a1111")):
        if kind == "PNG":
            record = read_record(png(PICTURE, parameters=text, fooocus_scheme=scheme))
        else:
            record = read_record(jpeg(fooocus_exif(text, scheme), kind))
        own = scheme == "fooocus"
        assert (record.source, record.prompt) == ("fooocus", "a red fox" if own else "a red fox, running")
        assert (record.steps, record.cfg) == (30, 4.0)
        assert record.sampler == ("dpmpp_2m_sde_gpu karras" if own else "DPM++ 2M SDE Karras")
        assert record.seed == ("6340815287498123456" if own else "634")
        assert record.model == ("juggernautXL_v8Rundiffusion" if own else "juggernautXL")


def test_invokeai() -> None:
    record = read_record(png(PICTURE, invokeai_metadata=json.dumps(INVOKEAI), invokeai_graph='{"nodes": {}}'))
    assert (record.source, record.raw, record.prompt) == ("invokeai", "a (red)1.3 fox++, in snow", "a red fox, in snow")
    expected = {"model": "Juggernaut XL v9", "sampler": "dpmpp_2m_k", "steps": 30, "cfg": 7.5, "seed": "2412"}
    assert record.get_settings() == expected
    old = INVOKEAI | {"model": {"model_name": "sd15"}, "positive_style_prompt": "oil painting"}
    record = read_record(png(PICTURE, invokeai_metadata=json.dumps(old)))
    assert (record.model, record.prompt) == ("sd15", "a red fox, in snow, oil painting")


def test_invokeai_of_earlier_versions() -> None:
    record = read_record(png(PICTURE, **{"sd-metadata": json.dumps(SD_METADATA), "Dream": DREAM}))
    expected = {"model": "stable-diffusion-1.5", "sampler": "k_lms", "steps": 50, "cfg": 7.5, "seed": "1150"}
    assert (record.source, record.prompt, record.get_settings()) == ("invokeai", "a red fox", expected)
    record = read_record(png(PICTURE, Dream=DREAM))
    assert (record.source, record.prompt) == ("invokeai", "a red fox, in snow")
    assert record.get_settings() == expected | {"model": None}


def test_novelai() -> None:
    record = read_record(png(PICTURE, **novelai_texts()))
    assert (record.source, record.prompt) == ("novelai", "red fox, snow, very aesthetic, girl, blue hat")
    expected = {"sampler": "k_euler_ancestral", "steps": 28, "cfg": 5.0, "seed": "3541"}
    assert record.get_settings() == {"model": "NovelAI Diffusion V4.5", **expected}
    third = {key: value for key, value in NOVELAI.items() if not key.startswith("v4")}
    record = read_record(png(PICTURE, **novelai_texts() | {"Comment": json.dumps(third)}))
    assert record.prompt == "red fox, snow, very aesthetic"
    others = png(PICTURE, Comment="made with GIMP", Title="a fox", Description="what I saw")
    assert read_record(others) == GenerationRecord()


# --- ComfyUI (test_comfyui.py tests the graphs)


def test_comfyui() -> None:
    for data in (comfy_png(PICTURE, plain_graph()), comfy_webp(PICTURE, plain_graph())):
        record = read_record(data)
        assert (record.source, record.raw, record.prompt) == ("comfyui", "a (red:1.2) fox", "a red fox")
        expected = {"sampler": "euler", "steps": 20, "cfg": 8.0, "seed": "156680208700286", "model": "dream_v8"}
        assert record.get_settings() == expected
    comment = json.dumps({"prompt": plain_graph(), "workflow": {}})
    assert read_record(jpeg(comment_exif(unicode_comment(comment)))).prompt == "a red fox"


def test_comfyui_with_the_editors_graph_alone() -> None:
    record = read_record(png(PICTURE, workflow=json.dumps(editor_workflow())))
    assert (record.source, record.prompt) == ("comfyui", "a red fox")
    expected = {"sampler": "euler karras", "steps": 20, "cfg": 8.0, "seed": "42", "model": "dream_v8"}
    assert record.get_settings() == expected


def test_parameters_win_over_a_graph_unless_they_have_no_prompt() -> None:
    graph = json.dumps(plain_graph())
    assert read_record(png(PICTURE, prompt=graph, parameters=A1111)).source == "a1111"
    record = read_record(png(PICTURE, prompt=graph, parameters="Steps: 20, Sampler: DDIM, Seed: 1"))
    assert (record.source, record.prompt) == ("comfyui", "a red fox")
    assert read_record(png(PICTURE, prompt="a fox")) == GenerationRecord()  # Easy Diffusion's


def test_texts_after_the_pixels_are_read() -> None:
    data = png(PICTURE, parameters=A1111)
    start = data.index(b"tEXt") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    last = data.index(b"IEND") - 4
    assert read_record(data[:start] + data[end:last] + data[start:end] + data[last:]).prompt == A1111_PROMPT


# --- damaged metadata cost the prompt, not the image

BAD_JSON = ["{", '{"a": ', "{" * 100_000, '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}", "{}", '{"1": 5}', "{\x7f}"]


@pytest.mark.parametrize("text", BAD_JSON, ids=range(len(BAD_JSON)))
@pytest.mark.parametrize("key", ["prompt", "workflow", "invokeai_metadata", "sd-metadata", "Dream", "fooocus"])
def test_unusable_json(key: str, text: str) -> None:
    texts = {"parameters": text, "fooocus_scheme": "fooocus"} if key == "fooocus" else {key: text}
    record = read_record(png(PICTURE, **texts))
    assert record.prompt is None
    assert record.fault in ("bad_metadata", None if text == "{}" or "5" in text else "bad_metadata")


def test_texts_that_are_too_large() -> None:
    long = "fox " * (MAX_PROMPT // 4 + 1)
    for texts in ({"parameters": long}, {"prompt": "{" + " " * MAX_TEXT + "}"}, {"Comment": "x" * (MAX_TEXT + 1)}):
        record = read_record(png(PICTURE, **texts))
        assert (record.prompt, record.raw, record.fault) == (None, None, "bad_metadata")


BOMB = zlib.compress(b"a fox " * 2**20, 9)
LARGE = [b"zTXtparameters\0\0" + BOMB, b"iTXtparameters\0\1\0\0\0" + BOMB, b"iCCPprofile\0\0" + BOMB]


@pytest.mark.parametrize("chunk", LARGE, ids=["zTXt", "iTXt", "iCCP"])
@pytest.mark.parametrize("after", [False, True])
def test_texts_that_unpack_to_too_much_cost_the_prompt_only(chunk: bytes, after: bool) -> None:
    data = insert_chunk(chunk)
    if after:  # the text follows the pixels
        start = data.index(chunk) - 4
        end = start + 8 + len(chunk)
        last = data.index(b"IEND") - 4
        data = data[:start] + data[end:last] + data[start:end] + data[last:]
    decoded = decode_image(data)
    assert decoded.image.tobytes() == PICTURE.tobytes()
    assert decoded.record == GenerationRecord(fault="bad_metadata")


def test_a_prompt_outside_the_large_text_stays() -> None:
    exif = comment_exif(unicode_comment(A1111))
    raw = encode_image(PICTURE, "PNG", exif=exif)
    where = raw.index(b"IDAT") - 4
    chunk = LARGE[0]
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert decode_image(raw[:where] + whole + raw[where:]).record.prompt == A1111_PROMPT


@pytest.mark.parametrize("value", [None, True, [], {}, "", "x" * 500, -1, 2**80, 1e300, float("nan"), "nan", "\ud800"])
def test_settings_of_any_type(value: Any) -> None:
    metadata = {**INVOKEAI, "seed": value, "steps": value, "cfg_scale": value, "scheduler": value, "model": value}
    row = read_record(png(PICTURE, invokeai_metadata=json.dumps(metadata)))
    assert row.prompt == "a red fox, in snow"
    assert row.steps in (None, -1)
    assert row.cfg in (None, -1, 2**80, 1e300)
    assert row.seed in (None, "-1")
    for text in (row.sampler, row.model):
        assert text is None or 0 < len(text) <= 200


FORMS = [
    png(PICTURE, parameters=A1111),
    jpeg(comment_exif(unicode_comment(A1111))),
    comfy_png(PICTURE, plain_graph()),
    comfy_webp(PICTURE, plain_graph()),
    png(PICTURE, parameters=json.dumps(FOOOCUS), fooocus_scheme="fooocus"),
    png(PICTURE, invokeai_metadata=json.dumps(INVOKEAI)),
    png(PICTURE, **novelai_texts()),
]


def check(record: GenerationRecord) -> None:
    """Every field fits into a table."""
    assert record.fault in (None, "bad_metadata", "ambiguous_prompt")
    for text in (record.prompt, record.raw, record.model, record.sampler, record.seed):
        assert text is None or (text and text.encode())
    assert record.steps is None or -(2**63) <= record.steps < 2**63
    json.dumps(record.get_settings(), allow_nan=False)


@settings(max_examples=150, deadline=None)
@given(form=st.sampled_from(FORMS), places=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), max_size=6))
def test_any_bytes(form: bytes, places: list[tuple[float, bytes]]) -> None:
    """Change bytes and correct the checksums of chunks, so that the changes reach the readers of metadata."""
    data = bytearray(form)
    for place, value in places:
        start = int(place * (len(data) - len(value)))
        data[start : start + len(value)] = value
    try:
        check(decode_image(mend_checksums(bytes(data))).record)
    except ImageFault:
        return


def mend_checksums(data: bytes) -> bytes:
    """Correct the checksums of a PNG; other data stay unchanged."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, position = data[:8], 8
    while position + 12 <= len(data):
        size = min(struct.unpack(">I", data[position : position + 4])[0], len(data) - position - 12)
        chunk = data[position + 4 : position + 8 + size]
        out += struct.pack(">I", size) + chunk + struct.pack(">I", zlib.crc32(chunk))
        position += 12 + size
    return out


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["3", "6", "a fox"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
SHAPES = {
    "prompt": plain_graph(),
    "workflow": editor_workflow(),
    "invokeai_metadata": INVOKEAI,
    "sd-metadata": SD_METADATA,
    "Comment": NOVELAI,
    "parameters": FOOOCUS,
}


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_json(data: st.DataObject) -> None:
    """Valid JSON of the right shape with arbitrary values at random places."""
    key = data.draw(st.sampled_from(sorted(SHAPES)))
    value: Any = json.loads(json.dumps(SHAPES[key]))
    for _ in range(data.draw(st.integers(0, 4))):
        here = value
        while True:
            keys = list(here) if isinstance(here, dict) else list(range(len(here)))
            if not keys:
                break
            chosen = data.draw(st.sampled_from(keys))
            inside = here[chosen]
            if not isinstance(inside, dict | list) or not inside or data.draw(st.booleans()):
                here[chosen] = data.draw(VALUES)
                break
            here = inside
    text = json.dumps(value)
    check(read_record(png(PICTURE, Software="NovelAI" if key == "Comment" else "x", **{key: text})))

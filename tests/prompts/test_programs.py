"""The forms of programs besides Automatic1111 and ComfyUI: in PNG texts, in EXIF, in XMP and in files beside images."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from written import comment_exif, encode_image, plain_graph, png, unicode_comment

from aigc_cli.images.reader import decode_image
from aigc_cli.images.sidecars import read_sidecar
from aigc_cli.prompts.record import GenerationRecord

PICTURE = Image.linear_gradient("L").resize((24, 16)).convert("RGB")
SWARM = {
    "sui_image_params": {
        "prompt": "a (tin:1.2) robot <lora:x:0.8> waving",
        "negativeprompt": "blurry",
        "model": "SDXL/base_1.0.safetensors",
        "seed": 58,
        "steps": 25,
        "cfgscale": 4.5,
        "sampler": "euler",
        "scheduler": "karras",
    },
    "sui_extra_data": {"date": "2025-03-01"},
}
RUINED = {
    "Prompt": "a tin robot",
    "Negative": "photo",
    "steps": 30,
    "cfg": 5,
    "seed": 23,
    "sampler_name": "dpmpp_2m",
    "scheduler": "karras",
    "base_model_name": "j.safetensors",
    "software": "RuinedFooocus",
}
EASY = {
    "prompt": "a tin robot",
    "negative_prompt": "blurry",
    "seed": "77",
    "use_stable_diffusion_model": "/models/stable-diffusion/sd-v1-5.ckpt",
    "sampler_name": "euler_a",
    "num_inference_steps": "25",
    "guidance_scale": "7.5",
    "width": "512",
}
EASY_SHOWN = {
    "Prompt": "a tin robot",
    "Negative Prompt": "blurry",
    "Seed": "77",
    "Stable Diffusion model": "sd-v1-5",
    "Sampler": "euler_a",
    "Steps": "25",
    "Guidance Scale": "7.5",
}
DRAW = {"c": "a tin robot", "uc": "x", "model": "m.ckpt", "sampler": "Euler A", "scale": 4.5, "seed": 9, "steps": 8}
SETTINGS = {"model": None, "sampler": None, "steps": None, "cfg": None, "seed": None}


def read_record(data: bytes) -> GenerationRecord:
    return decode_image(data).record


def xmp(comment: str, description: str = "") -> str:
    comment, description = (text.replace("&", "&amp;").replace("<", "&lt;") for text in (comment, description))
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{description}</rdf:li></rdf:Alt></dc:description>'
        f'<exif:UserComment><rdf:Alt><rdf:li xml:lang="x-default">{comment}</rdf:li></rdf:Alt></exif:UserComment>'
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def jpeg_comment(text: str) -> bytes:
    return encode_image(PICTURE, "JPEG", exif=comment_exif(unicode_comment(text)))


def webp_comment(text: str) -> bytes:
    return encode_image(PICTURE, "WEBP", exif=comment_exif(b"ASCII\0\0\0" + text.encode()))


def png_parameters(text: str) -> bytes:
    return png(PICTURE, parameters=text)


@pytest.mark.parametrize("write", [png_parameters, jpeg_comment, webp_comment])
@pytest.mark.parametrize(
    ("source", "fields", "prompt", "settings"),
    [
        ("swarmui", SWARM, "a tin robot waving", ("base_1.0", "euler karras", 25, 4.5, "58")),
        ("ruinedfooocus", RUINED, "a tin robot", ("j", "dpmpp_2m karras", 30, 5.0, "23")),
        ("easydiffusion", EASY, "a tin robot", ("sd-v1-5", "euler_a", 25, 7.5, "77")),
        ("drawthings", DRAW, "a tin robot", ("m", "Euler A", 8, 4.5, "9")),
    ],
)
def test_one_object(source: str, fields: dict[str, Any], prompt: str, settings: tuple[Any, ...], write: Any) -> None:
    record = read_record(write(json.dumps(fields, indent=2)))
    assert (record.source, record.prompt, record.fault) == (source, prompt, None)
    assert tuple(record.get_settings().values()) == settings


@pytest.mark.parametrize("fields", [EASY, EASY_SHOWN])
def test_easy_diffusion_in_png(fields: dict[str, str]) -> None:
    record = read_record(png(PICTURE, **fields))
    assert (record.source, record.prompt, record.steps, record.seed) == ("easydiffusion", "a tin robot", 25, "77")
    assert record.model == "sd-v1-5"


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("a fox", "a fox"),
        ("a fox <segment:face,0.6> a detailed face", "a fox"),
        ("a fox <refiner> sharp", "a fox"),
        ("a fox <base> in snow <refiner> sharp", "a fox, in snow"),
        (
            "a park <region:0,0,0.5,1> a red tree <object:0.5,0,0.5,1> a dog <segment:face> x",
            "a park, a red tree, a dog",
        ),
        ("a <alternate:cat, dog> runs", "a cat dog runs"),
        ("a <fromto[0.5]:cat, dog> runs", "a dog runs"),
        ("a <fromto[0.5]:cat, black || dog> runs", "a dog runs"),
        ("a cat <break> in snow", "a cat, in snow"),
        ("a cat <comment:not this> <embed:x> in snow<clear:background>", "a cat in snow"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
    ],
)
def test_tags_of_swarmui(text: str, prompt: str) -> None:
    record = read_record(png_parameters(json.dumps({"sui_image_params": {"prompt": text}})))
    assert (record.prompt, record.raw) == (prompt, text)


@pytest.mark.parametrize("text", ["a <random:red|blue> fox", "<wildcard:animals>", "a <wc:x> fox"])
def test_wildcards_that_swarmui_left_in(text: str) -> None:
    record = read_record(png_parameters(json.dumps({"sui_image_params": {"prompt": text, "seed": 5}})))
    assert (record.prompt, record.fault, record.seed) == (None, "ambiguous_prompt", "5")


def test_swarmui_of_earlier_versions() -> None:
    exif = Image.Exif()
    exif[0x0110] = json.dumps(SWARM)
    record = read_record(encode_image(PICTURE, "JPEG", exif=exif.tobytes()))
    assert (record.source, record.prompt) == ("swarmui", "a tin robot waving")


JOB = "Job ID: 0b0b0b0b-1111-2222-3333-444444444444"


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        (f"a road through hills --ar 16:9 --v 6.1 {JOB}", "a road through hills"),
        (f"a road {JOB}", "a road"),
        (f"a well-made road -- no cars --no people, dogs --style raw {JOB}", "a well-made road -- no cars"),
        (f"a road \u2014ar 3:2 {JOB}", "a road"),
        (f"https://s.mj.run/abc https://cdn.example.org/x.png a road --iw 2 {JOB}", "a road"),
        (f"<https://s.mj.run/abc> a road {JOB}", "a road"),
        (f"hot::2 dog::1 cars::-0.5 --v 5 {JOB}", "hot, dog"),
        (f"--v 6 {JOB}", None),
    ],
)
def test_midjourney(text: str, prompt: str | None) -> None:
    record = read_record(png(PICTURE, Description=text, Author="someone"))
    assert (record.source, record.prompt, record.get_settings()) == ("midjourney", prompt, SETTINGS)


def test_descriptions_of_people_are_no_prompts() -> None:
    for text in ("a road --ar 16:9", "my holiday", "Job ID: 5", f"{JOB} a road"):
        assert read_record(png(PICTURE, Description=text, Author="someone")) == GenerationRecord()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_draw_things(kind: str) -> None:
    packet = xmp(json.dumps(DRAW), "a tin robot\nSteps: 8")
    data = png(PICTURE, **{"XML:com.adobe.xmp": packet}) if kind == "PNG" else None
    record = read_record(data or encode_image(PICTURE, kind, xmp=packet.encode()))
    assert (record.source, record.prompt, record.cfg) == ("drawthings", "a tin robot", 4.5)


@pytest.mark.parametrize(
    "packet",
    [
        xmp("at the lake"),
        xmp(json.dumps(DRAW))[:-40],
        xmp(json.dumps(DRAW)).replace("<x:xmpmeta", '<!DOCTYPE x [<!ENTITY a "b">]><x:xmpmeta'),
        "UserComment",
    ],
)
def test_other_xmp_costs_nothing(packet: str) -> None:
    assert read_record(png(PICTURE, **{"XML:com.adobe.xmp": packet})) == GenerationRecord()
    record = read_record(png(PICTURE, **{"XML:com.adobe.xmp": packet, "Description": f"a road {JOB}"}))
    assert record.prompt == "a road"


def test_civitai() -> None:
    """The site writes the graph's nodes at the top, with the user's own prompt beside them or without it."""
    graph = plain_graph() | {"extra": {"airs": ["urn:air:sd1:checkpoint:civitai:4384@128713"]}}
    record = read_record(jpeg_comment(json.dumps(graph)))
    assert (record.source, record.prompt, record.steps) == ("comfyui", "a red fox", 20)
    own = {"prompt": "a tin robot", "negativePrompt": "x", "steps": 31, "cfgScale": 3, "seed": 5, "sampler": "Euler a"}
    for extra in (own, json.dumps(own)):
        record = read_record(jpeg_comment(json.dumps(graph | {"extraMetadata": extra})))
        assert (record.source, record.prompt) == ("civitai", "a tin robot")
        expected = {"model": None, "sampler": "Euler a", "steps": 31, "cfg": 3.0, "seed": "5"}
        assert record.get_settings() == expected
    text = (
        "a tin robot\nNegative prompt: x\nSteps: 25, Sampler: Euler a, CFG scale: 7, Seed: 5, Clip skip: 2, "
        'Civitai resources: [{"type":"checkpoint","modelVersionId":290640,"modelName":"Pony, XL"}], More: {}'
    )
    record = read_record(jpeg_comment(text))
    assert (record.source, record.prompt, record.seed) == ("a1111", "a tin robot", "5")


@pytest.mark.parametrize(
    "text",
    [
        "prompt: a melon\nNegative prompt: x\nVersion: aa, Pipeline: Original,\nSteps: 25 | Seed: 18 | "
        "Sampler: Euler a | CFG scale: 7 | Size: 768x512 | Model: m",
        "prompt: a melon\nVersion: aa, Pipeline: Original,\nSteps: 25 | Seed: 18 | Sampler: Euler a | CFG scale: 7",
        "prompt: a melon\nSteps: 25 | Seed: 18 | Sampler: Euler a | CFG scale: 7",
    ],
)
def test_sdnext_of_2023(text: str) -> None:
    record = read_record(png_parameters(text))
    assert (record.prompt, record.steps, record.seed, record.sampler) == ("a melon", 25, "18", "Euler a")
    assert record.cfg == 7.0
    record = read_record(png_parameters("prompt: a melon\nSteps: 25, Seed: 18, Sampler: Euler a, CFG scale: 7"))
    assert record.prompt == "prompt: a melon"  # the person's own words in a text of Automatic1111


def test_utf_8_under_the_name_of_utf_16() -> None:
    text = "a girl with long hair\nNegative prompt: x\nSteps: 26, Sampler: DDIM, CFG scale: 5.5, Seed: 11"
    for body in (text, f"{text}.", text.replace("girl", "девочка 女孩")):
        exif = comment_exif(b"UNICODE\0" + body.encode())
        record = read_record(encode_image(PICTURE, "JPEG", exif=exif))
        assert (record.raw, record.steps) == (body.split("\n")[0], 26)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("park ADDCOMM\nred dress ADDCOL\nblue dress", "park, red dress, blue dress"),
        ("fog ADDBASE a castle ADDROW a lake BREAK sky", "fog, a castle, a lake, sky"),
        ("two girls ADDP one", "two girls, one"),
        ("an ADDICTED BREAKER, LADDCOL", "an ADDICTED BREAKER, LADDCOL"),
    ],
)
def test_words_of_regional_prompter(text: str, prompt: str) -> None:
    assert read_record(png_parameters(f"{text}\nSteps: 20, Sampler: DDIM, Seed: 1, Size: 8x8")).prompt == prompt


def read_beside(folder: Path, text: str) -> GenerationRecord | None:
    (folder / "a.txt").write_text(text, encoding="utf-8")
    found = read_sidecar(folder / "a.png", folder)
    assert found is not None
    return found.record


EASY_TEXT = "\n".join(f"{name}: {value}" for name, value in EASY_SHOWN.items())


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        (json.dumps(SWARM), "a tin robot waving"),
        (json.dumps(EASY), "a tin robot"),
        (json.dumps(RUINED), "a tin robot"),
        (json.dumps(plain_graph()), "a red fox"),
        (EASY_TEXT, "a tin robot"),
        (EASY_TEXT.replace("a tin robot", "a tin robot\nStyle: bold, in rain"), "a tin robot Style: bold, in rain"),
        (EASY_TEXT.replace("Prompt: a tin", "a tin", 1), "a tin robot"),
        ("Style: bold\nSubject: a fox", "Style: bold Subject: a fox"),
        ("a model: tall\nheight: very", "a model: tall height: very"),
        ("{day|night} at the lake", "{day|night} at the lake"),
        ("[red fox] in snow", "[red fox] in snow"),
    ],
)
def test_texts_beside_images(text: str, prompt: str, tmp_path: Path) -> None:
    record = read_beside(tmp_path, text)
    assert record is not None
    assert record.prompt == prompt


@pytest.mark.parametrize(
    "text",
    [
        '{"file": "a.png", "label": 3}',
        '{"sui_image',
        "[]",
        '["a", "b"]',
        '[{"tag": "a"}]',
        "seed: 5\nsteps: 20\nsampler = Euler",
        "Model: x\nWidth: 5\n  CFG scale: 7\nprompt: a fox",
    ],
)
def test_data_beside_images_are_no_prompts(text: str, tmp_path: Path) -> None:
    assert read_beside(tmp_path, text) is None

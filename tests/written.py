"""Images with metadata in the form that each generator writes."""

import io
import json
import struct
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

Graph = dict[str, dict[str, Any]]


def png(picture: Image.Image, **texts: str) -> bytes:
    """A PNG with text chunks, written by Pillow as all these programs do: iTXt where Latin-1 does not suffice."""
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    return encode_image(picture, "PNG", pnginfo=info)


def encode_image(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file of the format `kind`."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def comment_exif(comment: bytes, order: str = ">") -> bytes:
    """EXIF that holds only a UserComment, as piexif writes it (in big-endian order)."""
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}I", 8)
    pointer = struct.pack(f"{order}HHHIII", 1, 0x8769, 4, 1, 26, 0)
    inner = struct.pack(f"{order}HHHIII", 1, 0x9286, 7, len(comment), 44, 0)
    return b"Exif\0\0" + head + pointer + inner + comment


def unicode_comment(text: str, order: str = "be") -> bytes:
    """Automatic1111's comment in JPEG and WebP. It writes `be`; other programs write `le` or a byte order mark."""
    return b"UNICODE\0" + text.encode(f"utf-16-{order}" if order in ("be", "le") else "utf-16")


A1111 = """a (red:1.2) fox, <lora:detail:0.8> ((sharp)), \\(v2\\)
in the snow
Negative prompt: blurry, cat
worst quality
Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 18446744073709551615, Size: 512x768, \
Model hash: 6ce0161689, Model: dream_v8, Lora hashes: "detail: 7c6bad76eb54, other: 1", Version: v1.10.1"""
A1111_PROMPT = "a red fox, sharp, (v2) in the snow"
A1111_SETTINGS = {"model": "dream_v8", "sampler": "DPM++ 2M Karras", "steps": 28, "cfg": 6.5}
A1111_SETTINGS["seed"] = "18446744073709551615"

FOOOCUS = {
    "adm_guidance": "(1.5, 0.8, 0.3)",
    "base_model": "juggernautXL_v8Rundiffusion",
    "base_model_hash": "aeb7e9e689",
    "full_negative_prompt": ["ugly"],
    "full_prompt": ["cinematic still a red fox . emotional, harmonious", "a red fox"],
    "guidance_scale": 4,
    "loras": [["sd_xl_offset", 0.1, "4852686128"]],
    "metadata_scheme": "fooocus",
    "negative_prompt": "a cat",
    "performance": "Speed",
    "prompt": "a red fox",
    "resolution": "(896, 1152)",
    "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras",
    "seed": "6340815287498123456",
    "sharpness": 2,
    "steps": 30,
    "version": "Fooocus v2.5.5",
}
FOOOCUS_A1111 = """cinematic still a red fox . emotional, harmonious, a red fox
Negative prompt: ugly
Steps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 634, Size: 896x1152, CFG scale: 4, Sharpness: 2, \
ADM Guidance: "(1.5, 0.8, 0.3)", Model: juggernautXL, Model hash: aeb7e9e689, Performance: Speed, \
Scheduler: karras, VAE: Default (model), Raw prompt: "a red fox, running", Raw negative prompt: , \
Version: Fooocus v2.5.5"""


def fooocus_exif(text: str, scheme: str) -> bytes:
    exif = Image.Exif()
    exif[0x9286], exif[0x0131], exif[0x927C] = text, "Fooocus v2.5.5", scheme
    return exif.tobytes()


INVOKEAI = {
    "generation_mode": "sdxl_txt2img",
    "positive_prompt": "a (red)1.3 fox++, in snow",
    "negative_prompt": "a cat",
    "positive_style_prompt": "",
    "width": 1024,
    "height": 1024,
    "seed": 2412,
    "rand_device": "cpu",
    "cfg_scale": 7.5,
    "steps": 30,
    "scheduler": "dpmpp_2m_k",
    "model": {"key": "0", "hash": "blake3:0", "name": "Juggernaut XL v9", "base": "sdxl", "type": "main"},
    "app_version": "5.4.0",
}
SD_METADATA = {
    "model": "stable diffusion",
    "model_weights": "stable-diffusion-1.5",
    "model_hash": "cc6cb27103417325ff94f52b7a5d2dde45a7515b25c255d8e396c90014281516",
    "app_id": "invoke-ai/InvokeAI",
    "app_version": "2.3.5",
    "image": {
        "prompt": [{"prompt": "a red fox [a cat, blurry]", "weight": 1.0}],
        "steps": 50,
        "cfg_scale": 7.5,
        "sampler": "k_lms",
        "seed": 1150,
        "type": "txt2img",
    },
}
DREAM = '"a red fox, in snow [a cat]" -s 50 -S 1150 -W 512 -H 512 -C 7.5 -A k_lms'

NOVELAI = {
    "prompt": "1.3::red fox ::, {{snow}}, very aesthetic",
    "steps": 28,
    "height": 1216,
    "width": 832,
    "scale": 5.0,
    "uncond_scale": 0.0,
    "seed": 3541,
    "n_samples": 1,
    "noise_schedule": "karras",
    "sampler": "k_euler_ancestral",
    "v4_prompt": {
        "caption": {
            "base_caption": "1.3::red fox ::, {{snow}}, very aesthetic",
            "char_captions": [{"char_caption": "girl, blue hat", "centers": [{"x": 0.5, "y": 0.5}]}],
        },
        "use_coords": False,
    },
    "v4_negative_prompt": {"caption": {"base_caption": "cat, lowres", "char_captions": []}},
    "uc": "cat, lowres",
    "request_type": "PromptGenerateRequest",
}


def novelai_texts() -> dict[str, str]:
    return {
        "Title": "NovelAI generated image",
        "Description": NOVELAI["prompt"],
        "Software": "NovelAI",
        "Source": "NovelAI Diffusion V4.5 4BDE2A90",
        "Generation time": "3.4",
        "Comment": json.dumps(NOVELAI),
    }


# --- ComfyUI


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"inputs": inputs, "class_type": kind, "_meta": {"title": kind}}


def plain_graph(**changes: dict[str, Any] | None) -> Graph:
    """ComfyUI's first example graph, with nodes added, replaced or (None) removed."""
    graph: Graph = {
        "3": node(
            "KSampler",
            seed=156680208700286,
            steps=20,
            cfg=8,
            sampler_name="euler",
            scheduler="normal",
            denoise=1,
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name="sdxl/dream_v8.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "6": node("CLIPTextEncode", text="a (red:1.2) fox", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="a cat", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    }
    for key, value in changes.items():
        if value is None:
            del graph[key.strip("_")]
        else:
            graph[key.strip("_")] = value
    return graph


def comfy_png(picture: Image.Image, graph: Graph, workflow: dict[str, Any] | None = None) -> bytes:
    return png(picture, prompt=json.dumps(graph), workflow=json.dumps(workflow or {"nodes": [], "links": []}))


def comfy_webp(picture: Image.Image, graph: Graph) -> bytes:
    """An image of SaveAnimatedWEBP: EXIF's field Model holds the graph, the fields before it the other texts."""
    exif = Image.Exif()
    exif[0x0110] = f"prompt:{json.dumps(graph)}"
    exif[0x010F] = 'workflow:{"nodes": [], "links": []}'
    return encode_image(picture, "WEBP", exif=exif.tobytes(), quality=80)


def editor_workflow() -> dict[str, Any]:
    """The plain graph as the editor saves it. A primitive node holds the text, and a Reroute passes it on."""

    def link(name: str, kind: str, number: int | None, **more: Any) -> dict[str, Any]:
        return {"name": name, "type": kind, "link": number, **more}

    nodes = [
        {"id": 1, "type": "PrimitiveNode", "mode": 0, "outputs": [{"type": "STRING"}], "widgets_values": ["a red fox"]},
        {
            "id": 3,
            "type": "KSampler",
            "mode": 0,
            "inputs": [
                link("model", "MODEL", 1),
                link("positive", "CONDITIONING", 4),
                link("negative", "CONDITIONING", 6),
                link("latent_image", "LATENT", None),
            ],
            "widgets_values": [42, "randomize", 20, 8, "euler", "karras", 1],
        },
        {"id": 4, "type": "CheckpointLoaderSimple", "mode": 0, "inputs": [], "widgets_values": ["dream_v8.ckpt"]},
        {
            "id": 6,
            "type": "CLIPTextEncode",
            "mode": 0,
            "inputs": [link("clip", "CLIP", 2), link("text", "STRING", 11, widget={"name": "text"})],
            "widgets_values": ["an older text"],
        },
        {
            "id": 7,
            "type": "CLIPTextEncode",
            "mode": 0,
            "inputs": [link("clip", "CLIP", 3)],
            "widgets_values": ["a cat"],
        },
        {"id": 8, "type": "VAEDecode", "mode": 0, "inputs": [link("samples", "LATENT", 7), link("vae", "VAE", 8)]},
        {
            "id": 9,
            "type": "SaveImage",
            "mode": 0,
            "inputs": [link("images", "IMAGE", 9)],
            "widgets_values": ["ComfyUI"],
        },
        {"id": 12, "type": "Reroute", "mode": 0, "inputs": [link("", "*", 12)], "outputs": [{"type": "CONDITIONING"}]},
        {"id": 13, "type": "KSampler", "mode": 2, "inputs": [], "widgets_values": [1, "fixed", 1, 1, "heun", "", 1]},
        {"id": 14, "type": "Note", "mode": 0, "widgets_values": ["not a prompt"]},
    ]
    links = [
        [1, 4, 0, 3, 0, "MODEL"],
        [2, 4, 1, 6, 0, "CLIP"],
        [3, 4, 1, 7, 0, "CLIP"],
        [4, 12, 0, 3, 1, "CONDITIONING"],
        [6, 7, 0, 3, 2, "CONDITIONING"],
        [7, 3, 0, 8, 0, "LATENT"],
        [8, 4, 2, 8, 1, "VAE"],
        [9, 8, 0, 9, 0, "IMAGE"],
        [11, 1, 0, 6, 1, "STRING"],
        [12, 6, 0, 12, 0, "CONDITIONING"],
    ]
    return {"last_node_id": 14, "last_link_id": 12, "nodes": nodes, "links": links, "groups": [], "version": 0.4}

"""One small graph for each shape of ComfyUI's public workflow templates whose prompt was found before: it still is.

A shape is the way from the text to the sampler. Models, images, controls and decoders differ from template to template,
but no prompt comes through them.
"""

from typing import Any

import pytest
from comfy_editor import edit
from written import Graph, node, plain_graph

from aigc_cli.prompts.comfyui import read_graph, read_workflow

WORDS = "a lighthouse in a storm, oil painting"
TEXT = {"CLIPTextEncodeFlux": "t5xxl"} | dict.fromkeys(
    [
        *("TextEncodeQwenImageEdit", "TextEncodeQwenImageEditPlus", "TextEncodeQwenImage21", "TextEncodeMageFlowEdit"),
        *("TextEncodeBooguEdit", "TextEncodeJoyImageEdit", "TextEncodeMOSSImageEdit"),
    ],
    "prompt",
)
PAIRED = (
    *("ControlNetApplyAdvanced", "InstructPixToPixConditioning", "LTXVConditioning", "LTXVAddGuide", "LTXVCropGuides"),
    *("LTXVImgToVideo", "Kandinsky5ImageToVideo", "HunyuanVideo15ImageToVideo", "WanImageToVideo", "WanVaceToVideo"),
    *("WanFirstLastFrameToVideo", "WanCameraImageToVideo", "Wan22FunControlToVideo", "WanFunControlToVideo"),
    *("WanSoundImageToVideo", "WanHuMoImageToVideo", "WanTrackToVideo", "WanMoveTrackToVideo", "ARVideoI2V"),
    *("FluxKontextMultiReferenceLatentMethod",),
)
SINGLE = (
    *("FluxGuidance", "ReferenceLatent", "StyleModelApply", "unCLIPConditioning", "PiDConditioning"),
    "ConditioningSetTimestepRange",
)
SHAPES = """
CLIPTextEncode KSampler
CLIPTextEncode KSampler zero
CLIPTextEncode KSamplerAdvanced
CLIPTextEncode SamplerCustom
CLIPTextEncode FluxGuidance KSampler zero
CLIPTextEncodeFlux KSampler zero
CLIPTextEncode FluxGuidance BasicGuider SamplerCustomAdvanced
CLIPTextEncode ReferenceLatent FluxGuidance BasicGuider SamplerCustomAdvanced
CLIPTextEncode FluxGuidance StyleModelApply BasicGuider SamplerCustomAdvanced
CLIPTextEncode ReferenceLatent FluxGuidance KSampler zero
CLIPTextEncode FluxGuidance InstructPixToPixConditioning KSampler zero
CLIPTextEncode FluxGuidance ControlNetApplyAdvanced KSampler zero
CLIPTextEncode ControlNetApplyAdvanced KSampler zero
CLIPTextEncode ControlNetApplyAdvanced ControlNetApplyAdvanced KSampler
CLIPTextEncode unCLIPConditioning KSampler
CLIPTextEncode ReferenceLatent KSampler
CLIPTextEncode PiDConditioning SamplerCustom zero
CLIPTextEncode BasicGuider SamplerCustomAdvanced
CLIPTextEncode CFGGuider SamplerCustomAdvanced
CLIPTextEncode CFGGuider SamplerCustomAdvanced zero
CLIPTextEncode ReferenceLatent CFGGuider SamplerCustomAdvanced
CLIPTextEncode ReferenceLatent CFGGuider SamplerCustomAdvanced zero
CLIPTextEncode DualModelGuider SamplerCustomAdvanced zero
CLIPTextEncode HunyuanVideo15ImageToVideo CFGGuider SamplerCustomAdvanced
CLIPTextEncode ARVideoI2V CFGGuider SamplerCustomAdvanced
CLIPTextEncode LTXVConditioning SamplerCustom
CLIPTextEncode LTXVConditioning CFGGuider SamplerCustomAdvanced
CLIPTextEncode LTXVConditioning LTXVAddGuide LTXVCropGuides CFGGuider SamplerCustomAdvanced
CLIPTextEncode LTXVConditioning LTXVImgToVideo SamplerCustom
CLIPTextEncode Kandinsky5ImageToVideo KSampler
CLIPTextEncode WanImageToVideo KSampler
CLIPTextEncode WanImageToVideo KSamplerAdvanced
CLIPTextEncode WanFirstLastFrameToVideo KSamplerAdvanced
CLIPTextEncode WanCameraImageToVideo KSampler
CLIPTextEncode Wan22FunControlToVideo KSamplerAdvanced
CLIPTextEncode WanFunControlToVideo KSampler
CLIPTextEncode WanSoundImageToVideo KSampler
CLIPTextEncode WanHuMoImageToVideo KSampler
CLIPTextEncode WanTrackToVideo KSampler
CLIPTextEncode WanMoveTrackToVideo KSampler
CLIPTextEncode WanVaceToVideo KSampler
TextEncodeQwenImageEdit KSampler
TextEncodeQwenImageEditPlus KSampler
TextEncodeQwenImageEditPlus FluxKontextMultiReferenceLatentMethod KSampler
TextEncodeQwenImageEdit FluxGuidance KSampler
TextEncodeQwenImage21 KSampler
TextEncodeMageFlowEdit KSampler
TextEncodeBooguEdit SamplerCustom
TextEncodeJoyImageEdit KSampler
TextEncodeMOSSImageEdit KSampler
StringConcatenate CLIPTextEncode KSampler
StringConcatenate TextEncodeQwenImageEditPlus KSampler
StringReplace CLIPTextEncode KSampler
PrimitiveStringMultiline CLIPTextEncode KSampler
ComfySwitchNode CLIPTextEncode KSampler
""".strip().splitlines()


OTHER_WORDS = node("PrimitiveStringMultiline", value="a cat that nobody asked for")
TEXTS: dict[str, dict[str, Any]] = {
    "StringConcatenate": {"string_a": WORDS, "string_b": "", "delimiter": ""},
    "StringReplace": {"string": WORDS, "find": "a cat", "replace": "a dog"},
    "PrimitiveStringMultiline": {"value": WORDS},
    "ComfySwitchNode": {"switch": True, "on_false": ["17", 0], "on_true": ["18", 0]},
}


def encode(kind: str, text: Any) -> dict[str, Any]:
    return node(kind, **{"clip": ["4", 1], TEXT.get(kind, "text"): text})


def build(shape: str) -> Graph:
    """The nodes of a shape behind each other; the negative side has a text of its own, or that of `zero`."""
    kinds, zero = shape.removesuffix(" zero").split(), shape.endswith("zero")
    text: Any = WORDS
    nodes: Graph = {"17": OTHER_WORDS, "18": node("PrimitiveStringMultiline", value=WORDS)}
    positive = negative = guider = [""]
    for key, kind in enumerate(kinds, 20):
        here = [str(key), 0]
        both = {"positive": positive, "negative": negative}
        if kind in TEXTS:
            nodes[str(key)], text = node(kind, **TEXTS[kind]), here
        elif "Encode" in kind:
            unwanted = encode(kind, "blurry, low quality, watermark")
            nodes["19"] = node("ConditioningZeroOut", conditioning=here) if zero else unwanted
            nodes[str(key)], positive, negative = encode(kind, text), here, ["19", 0]
        elif kind in SINGLE:
            nodes[str(key)], positive = node(kind, conditioning=positive), here
        elif kind in PAIRED:
            nodes[str(key)], positive, negative = node(kind, **both), here, [str(key), 1]
        elif kind.endswith("Guider"):
            links = {"conditioning": positive} if kind == "BasicGuider" else both
            nodes[str(key)], guider = node(kind, **links), here
        else:
            links = {"guider": guider} if kind == "SamplerCustomAdvanced" else {"model": ["4", 0], **both}
            nodes[str(key)] = node(kind, latent_image=["5", 0], **links)
    last = str(19 + len(kinds))
    shown = {f"_{key}": value for key, value in nodes.items()}
    return plain_graph(_3=None, _6=None, _7=None, _8=node("VAEDecode", samples=[last, 0], vae=["4", 2]), **shown)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_prompt_of_a_public_shape(shape: str) -> None:
    graph = build(shape)
    for record in (read_graph(graph), read_workflow(edit(graph))):
        assert record is not None
        assert (record.prompt, record.fault) == (WORDS, None)

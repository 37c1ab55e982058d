"""Kinds of ComfyUI graphs that people have, one small graph for each: both forms of it have the same answer."""

import json
from typing import Any

import pytest
from comfy_editor import edit
from written import Graph, node, plain_graph

from aigc_cli.prompts.comfyui import read_graph, read_workflow

APPLE, CUP = "a red apple on a wooden table", "a blue cup in the rain"
VAE, MODEL, CLIP = ["4", 2], ["4", 0], ["4", 1]


def encode(value: Any, kind: str = "CLIPTextEncode", **more: Any) -> dict[str, Any]:
    return node(kind, text=value, clip=CLIP, **more)


def sample(kind: str = "KSampler", **changes: Any) -> dict[str, Any]:
    settings = {"seed": 11, "steps": 20, "cfg": 7, "sampler_name": "euler", "scheduler": "normal", "denoise": 1}
    links = {"model": MODEL, "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    return node(kind, **settings | links | changes)


def graph(**changes: Any) -> Graph:
    return plain_graph(**{"_3": sample(), "_6": encode(APPLE), "_7": encode("blurry, ugly and dark")} | changes)


def save(key: str, slot: int = 0) -> dict[str, Any]:
    return node("SaveImage", filename_prefix="x", images=[key, slot])


def detail(kind: str, **links: Any) -> dict[str, Any]:
    return node(kind, seed=5, steps=9, cfg=8, sampler_name="euler", scheduler="normal", denoise=0.5, **links)


def identity(kind: str) -> dict[str, Any]:
    return node(kind, weight=1, model=MODEL, positive=["6", 0], negative=["7", 0], image=["24", 0])


IMAGE, MASK = node("LoadImage", image="in.png"), node("LoadImageMask", image="mask.png")
SECOND = sample(positive=["21", 0], latent_image=["22", 0], seed=5)
TWICE: dict[str, Any] = {"_9": save("23"), "_20": SECOND, "_21": encode(CUP), "_24": MASK}
TWICE |= {"_23": node("VAEDecode", samples=["20", 0], vae=VAE)}
EASY: dict[str, Any] = {
    "1": node("easy fullLoader", ckpt_name="base.safetensors", positive="a red lighthouse at dusk", negative="dark"),
    "2": detail("easy preSampling", pipe=["1", 0]),
    "3": node("easy kSampler", image_output="Save", save_prefix="x", pipe=["2", 0]),
    "4": save("3", 1),
}
WAN: Graph = {
    "1": node(
        "WanVideoTextEncode", positive_prompt=CUP, negative_prompt="blurry and dark", force_offload=True, t5=["2", 0]
    ),
    "2": node("LoadWanVideoT5TextEncoder", model_name="t5.safetensors"),
    "3": node(
        "WanVideoSampler", steps=20, cfg=6, shift=5, seed=1, scheduler="unipc", model=["4", 0], text_embeds=["1", 0]
    ),
    "4": node("WanVideoModelLoader", model="wan.safetensors"),
    "6": node("WanVideoDecode", samples=["3", 0]),
    "8": save("6"),
}
CASCADE = graph(
    _3=sample(seed=77, cfg=4, model=["41", 0], latent_image=["34", 0]),
    _33=sample(seed=88, steps=10, cfg=1.1, positive=["36", 0], latent_image=["34", 1]),
    _34=node("StableCascade_EmptyLatentImage", width=1024),
    _36=node("StableCascade_StageB_Conditioning", conditioning=["6", 0], stage_c=["3", 0]),
    _41=node("CheckpointLoaderSimple", ckpt_name="stage_c.safetensors"),
    _8=node("VAEDecode", samples=["33", 0], vae=VAE),
)
GUIDED: dict[str, Any] = {
    "_3": node("SamplerCustomAdvanced", guider=["21", 0], sampler=["22", 0], sigmas=["23", 0], latent_image=["5", 0]),
    "_22": node("KSamplerSelect", sampler_name="euler"),
    "_23": node("BasicScheduler", scheduler="simple", steps=12, denoise=1, model=MODEL),
}
FOUND: dict[str, tuple[Graph, str]] = {
    # outputs that do not line up with the inputs
    "InstantID": (
        graph(_3=sample(positive=["20", 1], negative=["20", 2]), _20=identity("ApplyInstantID"), _24=IMAGE),
        APPLE,
    ),
    "an unknown node with a model": (
        graph(_3=sample(positive=["20", 1], negative=["20", 2]), _20=identity("ApplyUnknownID"), _24=IMAGE),
        APPLE,
    ),
    "BrushNet": (
        graph(
            _3=sample(positive=["20", 1], negative=["20", 2], latent_image=["20", 3]),
            _20=identity("BrushNet"),
            _24=IMAGE,
        ),
        APPLE,
    ),
    "InstantID before a control net": (
        graph(
            _3=sample(positive=["21", 0], negative=["21", 1]),
            _20=identity("ApplyInstantID"),
            _21=node("ControlNetApplyAdvanced", positive=["20", 1], negative=["20", 2], image=["24", 0]),
            _24=IMAGE,
        ),
        APPLE,
    ),
    "efficient samplers in a chain": (
        graph(
            _3=sample("KSampler (Efficient)"),
            _10=sample("KSampler (Efficient)", seed=2, positive=["3", 1], negative=["3", 2]),
            _9=save("10", 5),
        ),
        APPLE,
    ),
    "a guider with the negative output as its second condition": (
        graph(
            **GUIDED,
            _20=node("InstructPixToPixConditioning", positive=["6", 0], negative=["7", 0], pixels=["24", 0]),
            _21=node("DualCFGGuider", cfg_conds=5, cond1=["20", 0], cond2=["20", 1], negative=["7", 0]),
            _24=IMAGE,
        ),
        APPLE,
    ),
    "a guider": (graph(**GUIDED, _21=node("CFGGuider", cfg=4, positive=["6", 0], negative=["7", 0])), APPLE),
    # nodes that make a new image
    "a partner node alone": ({"1": node("OpenAIDalle3", prompt=CUP, seed=3, style="vivid"), "2": save("1")}, CUP),
    "a partner node, made larger": (
        {"1": node("OpenAIDalle3", prompt=CUP), "2": node("RecraftCrispUpscaleNode", image=["1", 0]), "3": save("2")},
        CUP,
    ),
    "an edit after a sampler": (
        graph(_9=save("20"), _20=node("GeminiImageNode", prompt=CUP, model="gemini-2.5", seed=1, images=["8", 0])),
        CUP,
    ),
    "an edit of an unknown service": (
        graph(_9=save("20"), _20=node("CloudEdit", prompt=CUP, model="edit-2", seed=1, image=["8", 0])),
        CUP,
    ),
    "a detailer with the same text": (
        graph(
            _9=save("20"),
            _20=detail("FaceDetailerPipe", image=["8", 0], detailer_pipe=["21", 0]),
            _21=node("ToDetailerPipe", wildcard="", positive=["6", 0], negative=["7", 0], model=MODEL),
        ),
        APPLE,
    ),
    "words to look for": (
        graph(_9=save("20"), _20=node("GroundingDinoSAMSegment", prompt="the apple", threshold=0.3, image=["8", 0])),
        APPLE,
    ),
    "words drawn onto it": (
        graph(_9=save("20"), _20=node("CR Text Overlay", text="with my best wishes", image=["8", 0])),
        APPLE,
    ),
    # switches
    "the second of two conditionings": (
        graph(
            _3=sample(positive=["20", 0]),
            _20=node("CR Conditioning Input Switch", Input=2, conditioning1=["6", 0], conditioning2=["21", 0]),
            _21=encode(CUP),
        ),
        CUP,
    ),
    "a switch by a linked number": (
        graph(
            _3=sample(positive=["20", 0]),
            _20=node("ImpactSwitch", select=["22", 0], input1=["6", 0], input2=["21", 0]),
            _21=encode(CUP),
            _22=node("PrimitiveInt", value=2),
        ),
        CUP,
    ),
    "a switch by a truth value": (
        graph(
            _6=encode(["20", 0]),
            _20=node("ComfySwitchNode", switch=["23", 0], on_false=["21", 0], on_true=["22", 0]),
            _21=node("PrimitiveStringMultiline", value=CUP),
            _22=node("TextGenerate", prompt=["21", 0], max_length=9),
            _23=node("PrimitiveBoolean", value=False),
        ),
        CUP,
    ),
    "any switch with one input": (
        graph(
            _6=encode(["20", 0]),
            _20=node("Any Switch (rgthree)", any_01=["21", 0]),
            _21=node("PrimitiveStringMultiline", value=APPLE),
        ),
        APPLE,
    ),
    # pipes and contexts
    "easy-use": (EASY, "a red lighthouse at dusk"),
    "easy-use with another prompt": (
        EASY
        | {
            "2": detail("easy preSampling", pipe=["5", 0]),
            "5": node("easy pipeEditPrompt", pipe=["1", 0], positive=CUP, negative=""),
        },
        CUP,
    ),
    "a basic pipe": (
        graph(
            _3=sample(positive=["21", 3], negative=["21", 4]),
            _20=node("ToBasicPipe", model=MODEL, positive=["6", 0], negative=["7", 0]),
            _21=node("FromBasicPipe", basic_pipe=["20", 0]),
        ),
        APPLE,
    ),
    "contexts": (
        graph(
            _3=sample(positive=["21", 4], negative=["21", 5], latent_image=["21", 6]),
            _20=node("Context (rgthree)", positive=["6", 0], negative=["7", 0], latent=["5", 0]),
            _21=node("Context (rgthree)", base_ctx=["20", 0], model=MODEL),
        ),
        APPLE,
    ),
    "an efficient loader": (
        graph(
            _3=sample("KSampler (Efficient)", positive=["20", 1], negative=["20", 2], latent_image=["20", 3]),
            _9=save("3", 5),
            _20=node("Efficient Loader", ckpt_name="x.ckpt", positive=CUP, negative="dark", token_normalization="none"),
        ),
        CUP,
    ),
    "text embeddings of a wrapper": (WAN, CUP),
    # texts
    "a filled wildcard": (
        graph(
            _3=sample(positive=["20", 2]),
            _20=node("ImpactWildcardEncode", wildcard_text="a {red|blue} hat", populated_text="a blue hat", clip=CLIP),
        ),
        "a blue hat",
    ),
    "a prompt with a LoRA": (graph(_6=encode(f"<lora:x:0.8> {APPLE}", "Prompt (LoraManager)")), APPLE),
    "texts appended": (
        graph(
            _6=encode(["20", 0]),
            _20=node(
                "StringFunction|pysssss",
                action="append",
                tidy_tags="yes",
                text_a="a fox",
                text_b="in the snow",
                text_c="",
                result="an older fox",
            ),
        ),
        "a fox, in the snow",
    ),
    "an instruction before the prompt": (
        graph(_6=encode(f"You are an assistant designed to generate superior images. <Prompt Start> {CUP}")),
        CUP,
    ),
    "an instruction in its own node": (
        graph(_6=node("CLIPTextEncodeLumina2", system_prompt="superior", user_prompt=CUP, clip=CLIP)),
        CUP,
    ),
    "an unknown change of the conditioning": (
        graph(_3=sample(positive=["20", 0]), _20=node("UnknownConditionVariance", seed=3, conditioning=["6", 0])),
        APPLE,
    ),
    "Stable Cascade": (CASCADE, APPLE),
    "a masked pass with the same prompt": (
        graph(**TWICE | {"_21": encode(APPLE), "_22": node("SetLatentNoiseMask", samples=["3", 0], mask=["24", 0])}),
        APPLE,
    ),
    "a new picture in the size of the first": (
        graph(**TWICE, _22=node("LatentUpscale", samples=["3", 0], width=64)),
        CUP,
    ),
}
UNCLEAR: dict[str, Graph] = {
    "a negative output taken as positive": graph(
        _3=sample(positive=["20", 2]), _20=identity("ApplyInstantID"), _24=IMAGE
    ),
    "two saved images, one of a partner node": graph(_20=node("OpenAIGPTImage1", prompt=CUP, seed=5), _21=save("20")),
    "a saved image without a prompt": graph(_20=IMAGE, _21=node("Canny", image=["20", 0]), _22=save("21")),
    "a detailer with its own prompt": graph(
        _9=save("20"),
        _20=detail("FaceDetailer", image=["8", 0], positive=["21", 0], negative=["7", 0]),
        _21=encode(CUP),
    ),
    "a detailer with its own prompt in a pipe": graph(
        _9=save("20"),
        _20=detail("FaceDetailerPipe", image=["8", 0], detailer_pipe=["21", 0]),
        _21=node("ToDetailerPipe", wildcard="", positive=["22", 0], negative=["7", 0]),
        _22=encode(CUP),
    ),
    "a detailer with words of its own": graph(
        _9=save("20"),
        _20=detail("FaceDetailer", image=["8", 0], positive=["6", 0], negative=["7", 0], wildcard="a laughing face"),
    ),
    "SUPIR": graph(
        _9=save("20"),
        _20=node("SUPIR_Upscale", a_prompt="high quality, detailed", n_prompt="bad", seed=1, steps=45, image=["8", 0]),
    ),
    "an edit by words of an unknown node": graph(
        _9=save("20"), _20=node("UnknownEdit", instruction="turn the apple into a pear", image=["8", 0])
    ),
    "a text under an unknown name": {"1": node("UnknownMaker", wish="a cup in rain"), "2": save("1")},
    "an encoder with an unknown name": graph(_6=node("UnknownEncode", wish=APPLE, clip=CLIP)),
    "any switch with two inputs": graph(
        _6=encode(["20", 0]),
        _20=node("Any Switch (rgthree)", any_01=["21", 0], any_02=["22", 0]),
        _21=node("PrimitiveStringMultiline", value=APPLE),
        _22=node("PrimitiveStringMultiline", value=CUP),
    ),
    "a switch to what is not connected": graph(
        _3=sample(positive=["20", 0]), _20=node("CR Conditioning Input Switch", Input=2, conditioning1=["6", 0])
    ),
    "a text for each frame": graph(
        _6=node("BatchPromptSchedule", text='"0": "spring",\n"30": "winter"', max_frames=60, clip=CLIP)
    ),
    "texts that take turns": graph(
        _3=sample(positive=["20", 0]),
        _20=node("ConditioningCombine", conditioning_1=["21", 0], conditioning_2=["22", 0]),
        _21=node("ConditioningSetTimestepRange", start=0, end=0.5, conditioning=["6", 0]),
        _22=node("ConditioningSetTimestepRange", start=0.5, end=1, conditioning=["23", 0]),
        _23=encode(CUP),
    ),
    "a masked pass": graph(**TWICE, _22=node("SetLatentNoiseMask", samples=["3", 0], mask=["24", 0])),
    "a painted part": graph(**TWICE, _22=node("VAEEncodeForInpaint", pixels=["8", 0], vae=VAE, mask=["24", 0])),
    "a style that is not in the graph": graph(
        _6=encode(["20", 0]),
        _20=node("SDXLPromptStyler", text_positive="a tiny robot", text_negative="blurry", style="line art"),
    ),
    "an instruction without an end": graph(_6=encode("You are an assistant designed to generate images of cups")),
}


def ask(record: Any) -> tuple[Any, ...]:
    assert record.source == "comfyui"
    return record.prompt, record.fault


@pytest.mark.parametrize("name", FOUND)
def test_both_forms_have_the_prompt(name: str) -> None:
    shape, prompt = FOUND[name]
    assert ask(read_graph(json.loads(json.dumps(shape)))) == (prompt, None)
    assert ask(read_workflow(edit(shape))) == (prompt, None)


@pytest.mark.parametrize("name", UNCLEAR)
def test_both_forms_are_ambiguous(name: str) -> None:
    for record in (read_graph(json.loads(json.dumps(UNCLEAR[name]))), read_workflow(edit(UNCLEAR[name]))):
        assert ask(record) == (None, "ambiguous_prompt")


@pytest.mark.parametrize("name", FOUND)
def test_both_forms_have_the_same_settings(name: str) -> None:
    shape, _ = FOUND[name]
    record = read_workflow(edit(shape))
    assert record is not None
    assert record.get_settings() == read_graph(shape).get_settings()


def test_the_editors_graph_tells_the_outputs_of_an_unknown_node() -> None:
    shape = graph(_3=sample(positive=["20", 1]), _20=identity("ApplyUnknownID"), _24=IMAGE)
    assert ask(read_graph(shape)) == (None, "ambiguous_prompt")
    assert ask(read_graph(shape, workflow=edit(shape))) == (APPLE, None)


def test_the_settings_are_those_of_the_pass_that_made_the_content() -> None:
    assert read_graph(CASCADE).get_settings() == {
        "model": "stage_c",
        "sampler": "euler",
        "steps": 20,
        "cfg": 4.0,
        "seed": "77",
    }
    assert (read_graph(EASY).model, read_graph(EASY).steps) == ("base", 9)
    assert read_graph(FOUND["a guider"][0]).cfg == 4
    assert (read_graph(WAN).model, read_graph(WAN).seed) == ("wan", "1")


@pytest.mark.parametrize("text", ["a {red|blue} cup", "a __colour__ cup", "__animals/*__ in snow"])
def test_a_template_of_the_editor_is_ambiguous(text: str) -> None:
    assert ask(read_workflow(edit(graph(_6=encode(text))))) == (None, "ambiguous_prompt")
    assert ask(read_graph(graph(_6=encode(text)))) == (text, None)  # what ran is what was filled in


def test_a_graph_without_words_has_no_prompt() -> None:
    shape = {"1": IMAGE, "2": node("TopazImageEnhance", image=["1", 0], model="Reimagine"), "3": save("2")}
    assert ask(read_graph(shape)) == (None, None)
    assert ask(read_workflow(edit(shape))) == (None, None)

"""ComfyUI graphs: the prompt comes from the sampler that feeds the saved image; unclear graphs are ambiguous."""

import json
from typing import Any

import pytest
from written import Graph, editor_workflow, node, plain_graph

from aigc_cli.prompts.clean import MAX_PROMPT
from aigc_cli.prompts.comfyui import read_graph
from aigc_cli.prompts.comfyui_graph import MAX_NODES
from aigc_cli.prompts.comfyui_workflow import convert_workflow


def text(value: Any, kind: str = "CLIPTextEncode", **more: Any) -> dict[str, Any]:
    return node(kind, text=value, clip=["4", 1], **more)


def sampler(positive: str, latent: str = "5", kind: str = "KSampler", **more: Any) -> dict[str, Any]:
    plain = {"seed": 1, "steps": 20, "cfg": 8, "sampler_name": "euler", "scheduler": "normal", "denoise": 1}
    links = {"model": ["4", 0], "positive": [positive, 0], "negative": ["7", 0], "latent_image": [latent, 0]}
    return node(kind, **plain | links | more)


def check(graph: Graph, prompt: str | None, **settings: Any) -> None:
    """Read the graph with its nodes in both orders."""
    for shape in (graph, dict(reversed(graph.items()))):
        record = read_graph(json.loads(json.dumps(shape)))
        assert (record.source, record.prompt) == ("comfyui", prompt)
        assert record.fault == (None if prompt else "ambiguous_prompt")
        assert {name: getattr(record, name) for name in settings} == settings


ADVANCED = {"kind": "KSamplerAdvanced", "add_noise": "enable", "noise_seed": 5, "start_at_step": 0, "end_at_step": 20}
ADVANCED |= {"return_with_leftover_noise": "enable"}
CUSTOM: Graph = {
    "3": node(
        "SamplerCustomAdvanced",
        noise=["20", 0],
        guider=["21", 0],
        sampler=["22", 0],
        sigmas=["23", 0],
        latent_image=["5", 0],
    ),
    "20": node("RandomNoise", noise_seed=77),
    "21": node("BasicGuider", model=["24", 0], conditioning=["25", 0]),
    "22": node("KSamplerSelect", sampler_name="euler"),
    "23": node("BasicScheduler", scheduler="simple", steps=4, denoise=1, model=["24", 0]),
    "24": node("UNETLoader", unet_name="flux\\flux1-schnell.sft", weight_dtype="default"),
    "25": node("FluxGuidance", guidance=3.5, conditioning=["6", 0]),
}

UNDERSTOOD: dict[str, tuple[Graph, str]] = {
    "plain": (plain_graph(), "a red fox"),
    "the same text twice": (plain_graph(_7=text("a (red:1.2) fox")), "a red fox"),
    "combined": (
        plain_graph(
            _3=sampler("10"),
            _10=node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["11", 0]),
            _11=text("in snow,"),
        ),
        "a red fox, in snow",
    ),
    "concatenated": (
        plain_graph(
            _3=sampler("10"),
            _10=node("ConditioningConcat", conditioning_from=["11", 0], conditioning_to=["6", 0]),
            _11=text("in snow"),
        ),
        "a red fox, in snow",
    ),
    "regions": (
        plain_graph(
            _3=sampler("10"),
            _10=node("ConditioningCombine", conditioning_1=["12", 0], conditioning_2=["11", 0]),
            _11=node("ConditioningSetArea", width=64, strength=1, conditioning=["13", 0]),
            _12=node("ConditioningSetMask", strength=1, conditioning=["6", 0], mask=["14", 0]),
            _13=text("snow"),
            _14=node("LoadImageMask", image="mask.png"),
        ),
        "a red fox, snow",
    ),
    "an average of one": (
        plain_graph(
            _3=sampler("10"),
            _10=node(
                "ConditioningAverage",
                conditioning_to=["6", 0],
                conditioning_from=["7", 0],
                conditioning_to_strength=1.0,
            ),
        ),
        "a red fox",
    ),
    "control net with both": (
        plain_graph(
            _3=sampler("10") | {},
            _10=node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], control_net=["11", 0]),
            _11=node("ControlNetLoader", control_net_name="canny.pth"),
        ),
        "a red fox",
    ),
    "reference": (
        plain_graph(_3=sampler("10"), _10=node("ReferenceLatent", conditioning=["6", 0], latent=["11", 0])),
        "a red fox",
    ),
    "the model's two encoders": (
        plain_graph(_6=node("CLIPTextEncodeSDXL", width=1024, text_g="a fox", text_l="a fox", clip=["4", 1])),
        "a fox",
    ),
    "two encoders with texts of their own": (
        plain_graph(_6=node("CLIPTextEncodeFlux", clip_l="fox", t5xxl="a fox that sleeps", guidance=3.5)),
        "fox, a fox that sleeps",
    ),
    "an edit": (plain_graph(_6=node("TextEncodeQwenImageEdit", prompt="make it red", image=["10", 0])), "make it red"),
    "a primitive": (plain_graph(_6=text(["10", 0]), _10=node("PrimitiveString", value="a fox")), "a fox"),
    "a text node": (plain_graph(_6=text(["10", 0]), _10=node("CR Text", text="a fox")), "a fox"),
    "a text that is shown": (
        plain_graph(
            _6=text(["10", 0]),
            _10=node("ShowText|pysssss", text=["11", 0], text_0="an older fox"),
            _11=node("String Literal", string="a fox"),
        ),
        "a fox",
    ),
    "texts joined": (
        plain_graph(
            _6=text(["10", 0]),
            _10=node("StringConcatenate", string_a="a fox", string_b=["11", 0], delimiter=", "),
            _11=node(
                "Text Concatenate", text2="and ice", text10="!", text1="snow", delimiter=" ", clean_whitespace="on"
            ),
        ),
        "a fox, snow and ice !",
    ),
    "a text replaced": (
        plain_graph(_6=text(["10", 0]), _10=node("StringReplace", string="a cat", find="cat", replace="fox")),
        "a fox",
    ),
    "wildcards that were filled in": (
        plain_graph(
            _6=text(["10", 0]),
            _10=node("ImpactWildcardProcessor", wildcard_text="__x__", populated_text="a fox", mode="populate", seed=1),
        ),
        "a fox",
    ),
    "a loader with prompts": (
        plain_graph(
            _3=node(
                "KSampler (Efficient)", seed=1, steps=20, sampler_name="euler", positive=["4", 1], negative=["4", 2]
            ),
            _4=node("Efficient Loader", ckpt_name="x.ckpt", positive="a fox", negative="a cat"),
        ),
        "a fox",
    ),
    "advanced": (plain_graph(_3=sampler("6", **ADVANCED)), "a red fox"),
    "custom": (plain_graph(_3=sampler("6", kind="SamplerCustom", sampler=["22", 0])), "a red fox"),
    "custom advanced, basic guider": (plain_graph(**CUSTOM), "a red fox"),
    "custom advanced, guider with both": (
        plain_graph(**CUSTOM | {"21": node("CFGGuider", cfg=3, positive=["6", 0], negative=["7", 0])}),
        "a red fox",
    ),
    "custom advanced, a second condition without words": (
        plain_graph(
            **CUSTOM | {"21": node("DualCFGGuider", cond1=["6", 0], cond2=["10", 0], negative=["7", 0])},
            _10=text(""),
        ),
        "a red fox",
    ),
    "a text trimmed": (
        plain_graph(_6=text(["10", 0]), _10=node("StringTrim", string=" a fox ", mode="Both")),
        "a fox",
    ),
    "made larger": (
        plain_graph(
            _9=node("SaveImage", images=["12", 0]),
            _10=node("LatentUpscale", samples=["3", 0], width=1024),
            _11=sampler("6", "10", denoise=0.5, steps=9),
            _12=node("VAEDecode", samples=["11", 0], vae=["4", 2]),
        ),
        "a red fox",
    ),
    "an image before it that noise replaced": (
        plain_graph(_5=sampler("10", "12"), _10=text("a dog"), _12=node("EmptyLatentImage")),
        "a red fox",
    ),
    "previews of something else": (
        plain_graph(
            _10=node("PreviewImage", images=["11", 0]),
            _11=node("VAEDecode", samples=["12", 0], vae=["4", 2]),
            _12=sampler("13"),
            _13=text("a dog"),
        ),
        "a red fox",
    ),
    "previews alone": (plain_graph(_9=node("PreviewImage", images=["8", 0])), "a red fox"),
    "two files of one prompt": (
        plain_graph(
            _10=sampler("6", seed=2),
            _11=node("VAEDecode", samples=["10", 0]),
            _12=node("SaveImage", images=["11", 0]),
        ),
        "a red fox",
    ),
    "not latin": (plain_graph(_6=text("雪地里的(红色:1.2)狐狸 🦊")), "雪地里的红色狐狸 🦊"),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_understood_graphs(name: str) -> None:
    graph, prompt = UNDERSTOOD[name]
    check(graph, prompt)


TWO: Graph = plain_graph(
    _10=sampler("11"),
    _11=text("a dog"),
    _12=node("VAEDecode", samples=["10", 0], vae=["4", 2]),
    _13=node("SaveImage", images=["12", 0]),
)
UNCLEAR: dict[str, Graph] = {
    "two samplers, two files": TWO,
    "two samplers, one file": plain_graph(
        _3=sampler("6", "10", denoise=0.6), _10=sampler("11"), _11=text("a dog")
    ),
    "two samplers in one picture": plain_graph(
        _9=node("SaveImage", images=["13", 0]),
        _10=sampler("11"),
        _11=text("a dog"),
        _12=node("VAEDecode", samples=["10", 0], vae=["4", 2]),
        _13=node("ImageStitch", image1=["8", 0], image2=["12", 0]),
    ),
    "a face painted by another prompt": plain_graph(
        _9=node("SaveImage", images=["10", 0]),
        _10=node("FaceDetailer", image=["8", 0], sampler_name="euler", positive=["11", 0], negative=["7", 0]),
        _11=text("a face"),
    ),
    "a language model's answer": plain_graph(
        _6=text(["10", 0]), _10=node("OllamaGenerate", prompt="describe a fox", model="llama3", url="x")
    ),
    "a caption": plain_graph(_6=text(["10", 0]), _10=node("WD14Tagger", image=["8", 0], model="v2")),
    "wildcards by chance": plain_graph(_6=text(["10", 0]), _10=node("DPRandomGenerator", text="{fox|dog}", seed=1)),
    "a node that is not there": plain_graph(_6=None),
    "an unknown node": plain_graph(_6=node("MysteryEncode", mystery="a fox")),
    "a circle": plain_graph(
        _6=node("ConditioningCombine", conditioning_1=["10", 0], conditioning_2=["10", 0]),
        _10=node("ConditioningSetArea", conditioning=["6", 0]),
    ),
    "a circle of texts": plain_graph(_6=text(["10", 0]), _10=node("CR Text", text=["10", 0])),
    "a second condition": plain_graph(
        **CUSTOM | {"21": node("DualCFGGuider", cond1=["6", 0], cond2=["10", 0], negative=["7", 0])}, _10=text("snow")
    ),
    "a part of a text": plain_graph(_6=text(["10", 0]), _10=node("StringSubstring", string="a fox", start=0, end=1)),
    "a pattern replaced": plain_graph(
        _6=text(["10", 0]), _10=node("RegexReplace", string="a cat", regex_pattern="cat", replace="fox")
    ),
    "an unknown sampler": plain_graph(_3=node("MysterySampler", mystery=["6", 0], steps=4)),
    "a text that is a number": plain_graph(_6=text(5)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNCLEAR)
def test_unclear_graphs(name: str) -> None:
    check(UNCLEAR[name], None)


def test_settings() -> None:
    plain = {"model": "dream_v8", "sampler": "euler", "steps": 20, "cfg": 8.0, "seed": "156680208700286"}
    check(plain_graph(), "a red fox", **plain)
    custom = {"model": "flux1-schnell", "sampler": "euler simple", "steps": 4, "cfg": None, "seed": "77"}
    check(plain_graph(**CUSTOM), "a red fox", **custom)
    check(plain_graph(_3=sampler("6", **ADVANCED)), "a red fox", seed="5")
    larger, _ = UNDERSTOOD["made larger"]
    check(larger, "a red fox", **plain)  # of the first sampler
    check(TWO, None, sampler="euler", steps=20, seed=None)  # the settings that both share
    lora = node("LoraLoader", lora_name="y.safetensors", model=["4", 0], clip=["4", 1])
    shared = plain_graph(_3=sampler("6", model=["10", 0], seed=["11", 0]), _10=lora, _11=node("Seed (rgthree)", seed=9))
    check(shared, "a red fox", model="dream_v8", seed="9")


def test_a_graph_without_a_sampler_has_no_prompt() -> None:
    record = read_graph({"1": node("LoadImage", image="a.png"), "2": node("SaveImage", images=["1", 0])})
    assert (record.source, record.prompt, record.fault) == ("comfyui", None, None)


def test_an_empty_prompt_is_none() -> None:
    record = read_graph(plain_graph(_6=text("")))
    assert (record.prompt, record.fault, record.steps) == (None, None, 20)
    zero = plain_graph(_3=sampler("10"), _10=node("ConditioningZeroOut", conditioning=["6", 0]))
    assert read_graph(zero).prompt is None


@pytest.mark.parametrize("graph", [{}, {"1": 5}, {"1": {"inputs": 5}}, {"1": node("", a=1)}], ids=str)
def test_other_objects_are_bad_metadata(graph: Graph) -> None:
    assert read_graph(graph).fault == "bad_metadata"


def test_huge_texts_and_graphs_are_refused() -> None:
    wide = {str(i): text("a fox") for i in range(MAX_NODES + 1)}
    assert read_graph(wide).fault == "bad_metadata"
    assert read_graph(plain_graph(_6=text("a " * MAX_PROMPT))).fault == "bad_metadata"
    twice: Graph = {str(i): node("StringConcatenate", string_a=[str(i + 1), 0], string_b=[str(i + 1), 0], delimiter="")
                    for i in range(100, 150)} | {"150": node("CR Text", text="a fox" * 1000)}  # fmt: skip
    assert read_graph(plain_graph(_6=text(["100", 0]), **twice)).fault == "ambiguous_prompt"
    grown = plain_graph(_6=text(["10", 0]), _10=node("StringReplace", string="a" * 9999, find="", replace="b" * 9999))
    assert read_graph(grown).fault == "ambiguous_prompt"


# --- workflows of the editor


def test_a_workflow_becomes_the_graph_that_runs() -> None:
    graph = convert_workflow(editor_workflow())
    assert graph is not None
    assert "13" not in graph  # muted
    assert graph["6"]["inputs"]["text"] == ["1", 0]
    check(graph, "a red fox", seed="42", sampler="euler karras")


def test_a_bypassed_node_passes_on_its_input() -> None:
    workflow = editor_workflow()
    passes = {"id": 20, "type": "ConditioningSetArea", "mode": 4, "widgets_values": [64, 64, 0, 0, 1]}
    passes |= {"inputs": [{"name": "conditioning", "type": "CONDITIONING", "link": 13}]}
    passes |= {"outputs": [{"type": "CONDITIONING"}]}
    workflow["nodes"].append(passes)
    workflow["links"] += [[13, 6, 0, 20, 0, "CONDITIONING"]]
    workflow["links"][9] = [12, 20, 0, 12, 0, "CONDITIONING"]
    graph = convert_workflow(workflow)
    assert graph is not None
    check(graph, "a red fox")


def test_widgets_with_names_in_the_file() -> None:
    workflow = editor_workflow()
    encoder = next(node for node in workflow["nodes"] if node["id"] == 6)
    encoder |= {"type": "TextEncodeQwenImageEdit", "widgets_values": ["a fox"]}
    encoder["inputs"] = [{"name": "prompt", "type": "STRING", "link": None, "widget": {"name": "prompt"}}]
    graph = convert_workflow(workflow)
    assert graph is not None
    check(graph, "a fox")


@pytest.mark.parametrize(
    "workflow", [{}, {"nodes": 5, "links": []}, {"nodes": [], "links": []}, {"nodes": [[]], "links": [0]}]
)
def test_other_objects_are_no_workflow(workflow: dict[str, Any]) -> None:
    assert convert_workflow(workflow) is None

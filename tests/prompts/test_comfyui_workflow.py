"""The editor's graph of ComfyUI: what it holds in other ways than the graph that runs."""

import copy
from typing import Any

import pytest
from comfy_editor import edit, find_node
from written import plain_graph

from aigc_cli.prompts.comfyui import read_workflow
from aigc_cli.prompts.comfyui_graph import MAX_NODES
from aigc_cli.prompts.comfyui_workflow import convert_workflow

PROMPT, OTHER = "a red fox in the snow", "a lake in the morning"


def plain() -> dict[str, Any]:
    graph = plain_graph()
    graph["6"]["inputs"]["text"] = PROMPT
    return edit(graph)


def check(workflow: dict[str, Any], prompt: str | None) -> None:
    record = read_workflow(workflow)
    assert record is not None
    assert (record.prompt, record.fault) == (prompt, None if prompt else "ambiguous_prompt")


def pass_on(workflow: dict[str, Any], *entries: dict[str, Any]) -> None:
    """Put nodes between the encoder and the sampler's positive input, one after the other."""
    last = find_node(workflow, 3)["inputs"]
    positive = next(entry for entry in last if entry["name"] == "positive")
    origin, slot = 6, 0
    for number, entry in enumerate(entries):
        link = 100 + number
        workflow["links"].append([link, origin, slot, 50 + number, 0, "*"])
        blank = {"inputs": [{"name": "", "type": "*", "link": link}], "outputs": [{"name": "", "type": "*"}]}
        workflow["nodes"].append({"id": 50 + number, "mode": 0} | blank | entry)
        origin, slot = 50 + number, 0
    workflow["links"].append([99, origin, slot, 3, 1, "CONDITIONING"])
    positive["link"] = 99


@pytest.mark.parametrize("kind", ["Reroute", "Reroute (rgthree)", "ReroutePrimitive|pysssss", "JunctionReroute"])
def test_a_reroute_passes_on(kind: str) -> None:
    workflow = plain()
    pass_on(workflow, {"type": kind}, {"type": kind})
    check(workflow, PROMPT)


@pytest.mark.parametrize("name", ["Set{}", "easy set{}"])
def test_a_named_link_is_followed(name: str) -> None:
    workflow = plain()
    pass_on(workflow, {"type": "Reroute"})
    setter, getter = name.format("Node"), name.replace("set", "get").replace("Set", "Get").format("Node")
    workflow["nodes"][-1] |= {"type": setter, "widgets_values": ["positive"]}
    workflow["nodes"].append(
        {"id": 60, "type": getter, "mode": 0, "outputs": [{"name": "*", "type": "*"}], "widgets_values": ["positive"]}
    )
    workflow["links"][-1][1] = 60
    check(workflow, PROMPT)
    again = copy.deepcopy(workflow["nodes"][-2]) | {"id": 61}
    workflow["nodes"].append(again)  # two of one name
    check(workflow, None)


def test_a_bypassed_node_gives_way_to_its_input_of_the_same_type() -> None:
    workflow = plain()
    bypassed = {"type": "ApplyUnknown", "mode": 4, "widgets_values": [OTHER]}
    pass_on(workflow, bypassed)
    node = workflow["nodes"][-1]
    node["inputs"] = [{"name": "model", "type": "MODEL", "link": 1}, {"name": "c", "type": "CONDITIONING", "link": 100}]
    node["outputs"] = [{"name": "conditioning", "type": "CONDITIONING"}]
    check(workflow, PROMPT)
    node["mode"] = 2
    check(workflow, None)


def test_a_widget_whose_link_leads_nowhere_is_not_known() -> None:
    workflow = plain()
    text = next(entry for entry in find_node(workflow, 6)["inputs"] if entry["name"] == "text")
    text["link"] = 777
    check(workflow, None)


@pytest.mark.parametrize("form", ["a list of known order", "a dictionary"])
def test_widgets_in_other_forms(form: str) -> None:
    workflow = plain()
    encoder = find_node(workflow, 6)
    encoder["inputs"] = [entry for entry in encoder["inputs"] if "widget" not in entry]
    encoder["widgets_values"] = {"text": PROMPT} if form == "a dictionary" else [PROMPT]
    check(workflow, PROMPT)


def test_a_text_of_an_unknown_widget_is_ambiguous() -> None:
    workflow = plain()
    encoder = find_node(workflow, 6)
    encoder["type"] = "UnknownEncode"
    encoder["inputs"] = [entry for entry in encoder["inputs"] if "widget" not in entry]
    check(workflow, None)


def test_a_partner_node_without_names_of_widgets() -> None:
    maker = {
        "id": 1,
        "type": "FluxKontextProImageNode",
        "mode": 0,
        "inputs": [],
        "outputs": [{"name": "IMAGE", "type": "IMAGE"}],
    }
    saver = {"id": 2, "type": "SaveImage", "mode": 0, "inputs": [{"name": "images", "type": "IMAGE", "link": 1}]}
    workflow = {"nodes": [maker, saver], "links": [[1, 1, 0, 2, 0, "IMAGE"]]}
    check(workflow | {"nodes": [maker | {"widgets_values": [PROMPT, "1:1", 3, 50, 9, "randomize"]}, saver]}, PROMPT)
    check(workflow | {"nodes": [maker | {"widgets_values": [PROMPT, OTHER, 3]}, saver]}, None)
    check(workflow | {"nodes": [maker | {"widgets_values": ["fox", "Flux Kontext 2 Pro"]}, saver]}, None)


# --- subgraphs


def fold(workflow: dict[str, Any]) -> dict[str, Any]:
    """The workflow with everything but the saved image in a subgraph; its inputs set the two texts and the seed."""
    nodes = [node for node in workflow["nodes"] if node["id"] != 9]
    links = [dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
             for link in workflow["links"] if link[3] != "9"]  # fmt: skip
    promoted = [("text", 6, "text"), ("text_1", 7, "text"), ("seed", 3, "seed")]
    for number, (_, key, name) in enumerate(promoted):
        entries = find_node(workflow, key)["inputs"]
        slot = next(i for i, entry in enumerate(entries) if entry["name"] == name)
        entries[slot]["link"] = 200 + number
        links.append(
            {"id": 200 + number, "origin_id": -10, "origin_slot": number, "target_id": key, "target_slot": slot}
        )
    links.append({"id": 300, "origin_id": 8, "origin_slot": 0, "target_id": -20, "target_slot": 0})
    definition = {
        "id": "5e6f",
        "inputNode": {"id": -10},
        "outputNode": {"id": -20},
        "inputs": [{"name": name, "type": "STRING"} for name, _, _ in promoted],
        "outputs": [{"name": "IMAGE", "type": "IMAGE", "linkIds": [300]}],
        "nodes": nodes,
        "links": links,
    }
    host = {"id": 70, "type": "5e6f", "mode": 0, "outputs": [{"name": "IMAGE", "type": "IMAGE"}], "widgets_values": []}
    host["inputs"] = [{"name": "text", "type": "STRING", "widget": {"name": "text"}, "link": None}]
    saver = find_node(workflow, 9) | {"inputs": [{"name": "images", "type": "IMAGE", "link": 1}]}
    links_above = [[1, 70, 0, 9, 0, "IMAGE"]]
    return {"nodes": [host, saver], "links": links_above, "definitions": {"subgraphs": [definition]}}


def test_the_nodes_of_a_subgraph_keep_their_texts() -> None:
    check(fold(plain()), PROMPT)
    graph = convert_workflow(fold(plain()))
    assert graph is not None
    assert graph["9"]["inputs"]["images"] == ["70:8", 0]


def test_a_subgraph_shows_the_texts_that_count() -> None:
    workflow = fold(plain())
    find_node(workflow, 70)["widgets_values"] = [OTHER, "dark", 9]
    check(workflow, OTHER)
    record = read_workflow(workflow)
    assert record is not None
    assert record.seed == "9"
    find_node(workflow, 70)["widgets_values"] = [OTHER, 9]  # of which widgets is not known
    check(workflow, None)


def test_a_text_is_linked_to_a_subgraph() -> None:
    workflow = fold(plain())
    find_node(workflow, 70)["inputs"][0]["link"] = 2
    workflow["links"].append([2, 71, 0, 70, 0, "STRING"])
    text = {"id": 71, "type": "PrimitiveStringMultiline", "mode": 0, "outputs": [{"name": "STRING", "type": "STRING"}]}
    workflow["nodes"].append(text | {"widgets_values": [OTHER]})
    check(workflow, OTHER)


def test_a_subgraph_in_a_subgraph() -> None:
    inner = fold(plain())
    outer = {
        "id": "abcd",
        "inputNode": {"id": -10},
        "outputNode": {"id": -20},
        "inputs": [],
        "outputs": [{"name": "IMAGE", "type": "IMAGE"}],
        "nodes": [find_node(inner, 70)],
        "links": [{"id": 1, "origin_id": 70, "origin_slot": 0, "target_id": -20, "target_slot": 0}],
    }
    host = find_node(inner, 70) | {"id": 80, "type": "abcd", "inputs": []}
    workflow = {"nodes": [host, find_node(inner, 9)], "links": [[1, 80, 0, 9, 0, "IMAGE"]]}
    check(workflow | {"definitions": {"subgraphs": [*inner["definitions"]["subgraphs"], outer]}}, PROMPT)


def test_subgraphs_that_hold_themselves_end() -> None:
    hosts = [{"id": number, "type": "loop", "mode": 0} for number in range(200)]
    loop = {"id": "loop", "nodes": hosts, "links": [], "inputs": [], "outputs": []}
    assert convert_workflow({"nodes": hosts, "links": [], "definitions": {"subgraphs": [loop]}}) is None
    many = [{"id": number, "type": "Note", "mode": 0} for number in range(MAX_NODES + 1)]
    assert convert_workflow({"nodes": many, "links": []}) is None


@pytest.mark.parametrize("damage", ["inputs", "outputs", "links", "widgets_values", "definitions", "mode", "type"])
@pytest.mark.parametrize("value", [None, 5, "x", [None], [[]], [{}], {"subgraphs": [{}]}, {"subgraphs": 5}], ids=str)
def test_damaged_workflows_are_read(damage: str, value: Any) -> None:
    workflow = fold(plain())
    workflow[damage] = value
    for node in (
        [*workflow["nodes"], *workflow["definitions"]["subgraphs"][0]["nodes"]] if damage != "definitions" else []
    ):
        node[damage] = value
    read_workflow(workflow)

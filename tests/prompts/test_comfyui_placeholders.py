"""Nodes of ComfyUI that write `parameters` beside the graph, with placeholders for what is not connected."""

import io
import json

import pytest
from PIL import Image
from written import Graph, node, plain_graph, png

from aigc_cli.prompts.embedded import read_embedded
from aigc_cli.prompts.record import GenerationRecord

UNKNOWN = """unknown
Negative prompt: unknown
Steps: 20, Sampler: , CFG scale: 7.0, Seed: 0, Size: 512x512, Model: , Version: ComfyUI"""
UNCLEAR = plain_graph(_6=node("MysteryEncode", mystery="a fox"))


def read(parameters: str, graph: Graph, workflow: str = "{}") -> GenerationRecord:
    data = png(Image.new("RGB", (8, 8)), parameters=parameters, prompt=json.dumps(graph), workflow=workflow)
    return read_embedded(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("workflow", ["", "{}"])
def test_a_placeholder_does_not_win_over_the_graph(workflow: str) -> None:
    record = read(UNKNOWN, plain_graph(), workflow)
    assert (record.source, record.prompt, record.seed) == ("comfyui", "a red fox", "156680208700286")
    unclear = read(UNKNOWN, UNCLEAR, workflow)
    assert (unclear.prompt, unclear.fault) == (None, "ambiguous_prompt")


def test_settings_that_are_placeholders_come_from_the_graph() -> None:
    record = read(UNKNOWN.replace("unknown", "a blue cup", 1), plain_graph())
    assert (record.source, record.prompt) == ("a1111", "a blue cup")
    assert (record.model, record.sampler, record.seed) == ("dream_v8", "euler", "156680208700286")
    assert (record.steps, record.cfg) == (20, 7.0)

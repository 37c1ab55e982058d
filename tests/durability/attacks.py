"""The attacks: every kind of file that `aigc` reads, with the commands that read it."""

from dataclasses import dataclass

OUT = "out"  # the only folder of the sandbox that commands may write to
QUICK = "--device cpu -q"
RESUME = f"train --resume out/begun {QUICK}"
TRAINING = f"--recipe quick --epochs 1 --batch-size 4 --views 1 --hidden-q 4 --hidden-c 4 {QUICK}"


@dataclass(frozen=True)
class Attack:
    """An untrusted file, and the commands that read it.

    Attributes:
        name: kind of file, for people.
        file: path in the sandbox; below `out/` if a command also writes there.
        lines: command lines; each is run alone.
        like: path of a valid file in the sandbox; empty: `file` itself.
        given: folders that are copied into `out/` first.
        codes: allowed exit codes; None: it took too long.
    """

    name: str
    file: str
    lines: tuple[str, ...]
    like: str = ""
    given: tuple[str, ...] = ()
    codes: frozenset[int | None] = frozenset({0, 2, 3, None})


RATED = "--data ratings.csv --images images"
PLAIN = f"--recipe short.yaml {QUICK}"
ON_IMAGE = (
    f"score images --prompts prompts.csv --model model {QUICK} -o out/t.csv --report out/t.html",
    f"train {RATED} {PLAIN} -o out/run",
    f"eval model {RATED} {QUICK} -o out/m.csv",
    f"recommend {RATED}",
    f"stress --model model {RATED} {QUICK} -o out/s",
    f"verify scores.csv --model model {QUICK}",
    "pick scores.csv --copy out/best -q",
    f"compare images scores.csv --prompts prompts.csv --model model {QUICK} -o out/c.csv",
)
ON_RATINGS = tuple(
    line.replace("ratings.csv", "any.csv")
    for line in (
        f"recommend {RATED}",
        f"score images --prompts ratings.csv --model model {QUICK} -o out/t.jsonl",
        f"eval model {RATED} {QUICK} -o out/m.csv --by kind",
        f"train {RATED} {PLAIN} -o out/run",
        f"ablate {RATED} --recipe short.yaml --variants variants.yaml --folds 2 {QUICK} -o out/a",
    )
)
ON_SCORES = (
    "pick any.{0} --by both -o out/p.csv",
    "pick any.{0} --copy out/best -q",
    "pick any.{0} --images images --paths",
    "compare any.{0} scores.csv -o out/c.csv",
    "compare scores.csv any.{0} --by prompt --report out/c.html",
    f"verify any.{{0}} --model model {QUICK}",
)
ON_MODEL = (
    f"score images --prompts prompts.csv --model out/model {QUICK} -o out/t.csv",
    f"eval out/model {RATED} {QUICK}",
    f"verify scores.csv --model out/model {QUICK}",
)
ON_BACKBONE = (f"train {RATED} --backbone local-dir:out/clip {TRAINING} -o out/run",)
ON_FOLDS = (
    f"crossval --splits any.{{0}} {RATED} {PLAIN} -o out/folds",
    f"train --splits any.{{0}} {RATED} {PLAIN} -o out/run",
)
RESUMED = f"score images --prompts prompts.csv --model model {QUICK} -o out/half/t.csv --resume"
ABLATED = f"ablate {RATED} --recipe short.yaml --variants variants.yaml --folds 2 {QUICK} -o out/ablation --resume"
VALIDATED = f"crossval {RATED} --recipe short.yaml --folds 2 {QUICK} -o out/cv --resume"
STATE = "out/begun/training/epoch-1-step-1"


def make_attacks(cell: str | None) -> dict[str, Attack]:
    """{name: attack} for each kind of file except images, see `make_image_attack`.

    Args:
        cell: file of one finished fold in the sandbox's ablation; None without an ablation.
    """
    parts, looks = "out/half/t.csv.parts", ("recommend --run out/run", "recommend --run out/run --json")
    found = [
        Attack("ratings", "any.csv", ON_RATINGS, "ratings.csv"),
        Attack("recipe", "any.yaml", ("train --recipe any.yaml --print-config",), "own.yaml"),
        Attack("settings", "aigc.yaml", ("train --print-config",), "short.yaml"),
        Attack("variants", "any.yaml", ("ablate --variants any.yaml --data none.csv -o out/a",), "variants.yaml"),
        Attack("backbone", "out/clip/open_clip_config.json", ON_BACKBONE, given=("clip",)),
        Attack("backbone's weights", "out/clip/open_clip_model.safetensors", ON_BACKBONE, given=("clip",)),
        Attack("weights", "out/model/checkpoint/weights.safetensors", ON_MODEL, given=("model",)),
        Attack("model", "out/model/checkpoint/model.json", ON_MODEL, given=("model",)),
        Attack("graph", "out/model/checkpoint/image.onnx", ON_MODEL[:1], given=("model",)),
        Attack("tokenizer", "out/model/checkpoint/tokenizer.json", ON_MODEL[:1], given=("model",)),
        Attack("folds", "any.parquet", tuple(line.format("parquet") for line in ON_FOLDS), "folds.parquet"),
        Attack("parts", "any.csv", tuple(line.format("csv") for line in ON_FOLDS), "parts.csv"),
        Attack("crossval", "out/cv/crossval.json", (VALIDATED,), given=("cv",)),
        Attack("undo", "out/picks/undo-1.json", ("pick --undo out/picks/undo-1.json",), given=("picks",)),
        Attack("run", "out/run/run.json", looks, given=("run",)),
        Attack("run's recipe", "out/run/recipe.yaml", looks, given=("run",)),
        Attack("run's epochs", "out/run/epochs.parquet", looks, given=("run",)),
        Attack("training", "out/begun/training/plan.json", (RESUME,), given=("begun",)),
        Attack("state", f"{STATE}/state.json", (RESUME,), given=("begun",)),
        Attack("state's tensors", f"{STATE}/state.safetensors", (RESUME,), given=("begun",)),
        Attack("scoring", f"{parts}/plan.json", (RESUMED,), given=("half",)),
        Attack("scoring's inputs", f"{parts}/inputs.parquet", (RESUMED,), given=("half",)),
        Attack("scoring's rows", f"{parts}/shard-000000.parquet", (RESUMED,), given=("half",)),
    ]
    noted = (
        "verify any.csv --model model -q",
        "compare any.csv scores.csv",
        "compare any.csv scores.csv --report out/c.html",
    )
    found.append(Attack("note", "any.csv.meta.json", noted, "scores.csv.meta.json"))
    for suffix in ("parquet", "csv", "jsonl"):
        lines = tuple(line.format(suffix) for line in ON_SCORES)
        found.append(Attack(f"scores.{suffix}", f"any.{suffix}", lines, f"scores.{suffix}"))
    if cell is not None:
        place = f"out/ablation/cells/{cell}"
        found.append(Attack("ablation", "out/ablation/ablation.json", (ABLATED,), given=("ablation",)))
        found.append(Attack("cell", place, (ABLATED,), given=("ablation",)))
    return {attack.name: attack for attack in found}


def make_image_attack(name: str) -> Attack:
    """An attack with the image `name` of the sandbox."""
    return Attack("image", f"images/{name}", ON_IMAGE)

"""Variants: differences between recipes, from ideas, recipes, a grid or a file."""

from pathlib import Path

import pytest

from aigc_cli.errors import AigcError
from aigc_cli.recipe import Recipe, read_recipe
from aigc_cli.workflows.ablate.variants import IDEAS, apply_variants, make_grid, read_recipe_variants, read_variants


def test_the_four_ideas() -> None:
    assert list(IDEAS) == ["traditional", "residual", "residual + partial freeze", "residual + all frozen"]
    found = apply_variants(Recipe(), IDEAS)
    assert [(r.residual, r.freeze) for r in found.values()] == [
        (False, "none"),
        (True, "none"),
        (True, "partial"),
        (True, "all"),
    ]
    assert len({(r.seed, r.epochs, r.batch_size, r.loss) for r in found.values()}) == 1


def test_whole_recipes(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: quick\nlr: 2e-4\n")
    found = read_recipe_variants(["small", str(tmp_path / "mine.yaml")])
    assert list(found) == ["small", "mine"]
    assert found["mine"] == read_recipe(tmp_path / "mine.yaml")
    with pytest.raises(AigcError, match="found 'smal'"):
        read_recipe_variants(["smal"])
    with pytest.raises(AigcError, match="recipes of different names"):
        read_recipe_variants(["small", "small"])


def test_a_grid_has_every_combination() -> None:
    assert make_grid(["lr=1e-5,3e-5", "freeze-depth=0.75"]) == {
        "lr=1e-5, freeze_depth=0.75": {"lr": 1e-5, "freeze_depth": 0.75},
        "lr=3e-5, freeze_depth=0.75": {"lr": 3e-5, "freeze_depth": 0.75},
    }
    assert make_grid(["residual=true,false"]) == {
        "residual=true": {"residual": True},
        "residual=false": {"residual": False},
    }
    assert make_grid(["loss=mse,l1+plcc"]) == {"loss=mse": {"loss": "mse"}, "loss=l1+plcc": {"loss": "l1+plcc"}}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["lr"], "Expected --vary KEY=VALUE"),
        (["lr="], "Expected --vary KEY=VALUE"),
        (["lr=1,,2"], "Expected --vary KEY=VALUE"),
        (["leraning=1"], "Expected a known setting in --vary"),
        (["lr=fast"], "Expected a number for lr"),
        (["lr=7"], "Expected lr of 0 to 1"),
        (["lr=1e-5,1e-5"], "every key and value of --vary once"),
        (["lr=1e-5", "lr=1e-4"], "every key and value of --vary once"),
        (
            ["seed=" + ",".join(map(str, range(15))), "epochs=" + ",".join(map(str, range(1, 16)))],
            "at most 200 variants",
        ),
    ],
)
def test_a_grid_that_can_not_be(texts: list[str], message: str) -> None:
    with pytest.raises(AigcError, match=message):
        make_grid(texts)


def test_variants_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "variants.yaml"
    file.write_text("as it is:\ndeeper: {freeze_depth: 0.9, lr: 1e-5}\nfrozen:\n  extends: small\n  epochs: 3\n")
    found = read_variants(file)
    assert list(found) == ["as it is", "deeper", "frozen"]
    assert found["as it is"] == {}
    assert found["deeper"] == {"freeze_depth": 0.9, "lr": 1e-5}
    assert found["frozen"]["freeze"] == "all"
    assert found["frozen"]["epochs"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "at least one variant"),
        ("deeper: 3", "Expected settings in .*variant 'deeper', found '3'"),
        ("deeper: {freze_depth: 0.9}", "variant 'deeper', found 'freze_depth'"),
        ("deeper: {extends: smal}", "found 'smal'"),
        ("a: {lr: 1e-5}\na: {lr: 1e-4}", "the key 'a' twice"),
    ],
)
def test_a_file_of_variants_that_can_not_be(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "v.yaml").write_text(text)
    with pytest.raises(AigcError, match=message):
        read_variants(tmp_path / "v.yaml")

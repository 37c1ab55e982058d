"""What `--help` and `--help-all` show: plain text in 80 columns, options by group, the main ones first.

The group of an option is its `rich_help_panel`. Only `--help-all` shows a group whose name begins with `EXTRA`.
Rich is not used: importing it takes longer than everything else that `aigc --help` does.
"""

from typing import TYPE_CHECKING

from typer.core import TyperArgument, TyperCommand, TyperGroup

from aigc_cli.cli.values import read_without_pydantic

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter
    from typer._click.core import Parameter

EXTRA = "~"
GENERAL = "Options"
SHOW_ALL = "show_all"  # key of the root context's `obj`
FLAG_COLUMNS = 28  # a longer flag has its help on the next line
COMMAND_GROUPS = {  # the first paragraph of each command's help: `aigc --help` imports none of them
    "Commands": {
        "train": "Train a model on rated images.",
        "eval": "Compare a model's scores with human ratings.",
        "score": "Score the quality and prompt consistency of images.",
        "ablate": "Compare recipe variants on the same folds.",
        "recommend": "Recommend settings for your data, with a reason for each.",
    },
    "Results": {
        "pick": "List, copy, link or move the best images of each prompt.",
        "compare": "Test which of several sets of images scores higher.",
        "plot": "Draw figures of a run or a result table.",
        "verify": "Score a random sample of a table again and compare.",
    },
    "Judging models": {
        "crossval": "Cross-validate a recipe on rated images.",
        "stress": "Measure how scores change when images or prompts are damaged.",
    },
    "Making things": {
        "rate": "Rate your images in the browser, for `aigc train`.",
        "export": "Write a model as ONNX graphs.",
    },
    "Machine": {
        "doctor": "Check that this machine has what aigc needs.",
        "cache": "Show or clear stored features, engines and demo data.",
    },
}
EXAMPLES = (
    "aigc score images/ --prompts prompts.csv",
    "aigc train --recipe medium --data ratings.csv --images images/",
)


class HelpfulCommand(TyperCommand):
    """A command with a short help and a complete one."""

    def get_params(self, ctx: "Context") -> "list[Parameter]":
        return read_without_pydantic(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: "Context") -> list[str]:
        """`[OPTIONS]` and the arguments, in brackets where they may be left out."""
        arguments = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, TyperArgument)]
        names = [(argument.required, f"{argument.metavar}{'...' * (argument.nargs != 1)}") for argument in arguments]
        return ["[OPTIONS]", *(name if required else f"[{name}]" for required, name in names)]

    def format_options(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Arguments, then the options of each group; those of `GENERAL` last."""
        show_all = bool((ctx.find_root().obj or {}).get(SHOW_ALL))
        groups: dict[str, list[tuple[str, str]]] = {}
        hidden = 0
        for parameter in self.get_params(ctx):
            if isinstance(parameter, TyperArgument):
                groups.setdefault("Arguments", []).append((str(parameter.metavar), parameter.help or ""))
                continue
            panel = getattr(parameter, "rich_help_panel", None) or GENERAL
            if panel.startswith(EXTRA) and not show_all:
                hidden += 1
            elif (record := parameter.get_help_record(ctx)) is not None:
                flags, _ = record
                text = str(getattr(parameter, "help", None) or "")
                groups.setdefault(panel.removeprefix(EXTRA), []).append((flags.replace(" / ", "/"), text))
        general = groups.pop(GENERAL, [])
        if hidden or show_all:
            general.append(("--help-all", f"Show {hidden} more options." if hidden else "Show all options."))
        for title, lines in (*groups.items(), (GENERAL, general)):
            with formatter.section(title):
                formatter.write_dl(lines, col_max=FLAG_COLUMNS)


class CommandList(TyperGroup):
    """The help of a group of commands; that of `aigc` itself lists them by subject and ends with examples."""

    def get_params(self, ctx: "Context") -> "list[Parameter]":
        return read_without_pydantic(super().get_params(ctx))

    def format_options(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """The commands, each with the first paragraph of its help, then the options."""
        is_root = ctx.parent is None
        own = {} if is_root else {name: (c.help or "").partition("\n\n")[0] for name, c in self.commands.items()}
        for title, texts in (COMMAND_GROUPS if is_root else {"Commands": own}).items():
            with formatter.section(title):
                formatter.write_dl([(name, " ".join(text.split())) for name, text in texts.items()])
        records = [record for parameter in self.get_params(ctx) if (record := parameter.get_help_record(ctx))]
        with formatter.section(GENERAL):
            formatter.write_dl(records, col_max=FLAG_COLUMNS)
        if is_root:
            with formatter.section("Examples"):
                for example in EXAMPLES:
                    formatter.write_text(example)

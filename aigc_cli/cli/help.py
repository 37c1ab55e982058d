"""What `--help` and `--help-all` show: plain text in 80 columns, options by group, the main ones first.

The group of an option is its `rich_help_panel`. Only `--help-all` shows a group whose name begins with `EXTRA`.
Rich is not used: importing it takes longer than everything else that `aigc --help` does.
"""

from typing import TYPE_CHECKING

from typer.core import TyperArgument, TyperCommand, TyperGroup

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

EXTRA = "~"
GENERAL = "Options"
SHOW_ALL = "show_all"  # key of the root context's `obj`
FLAG_COLUMNS = 28  # a longer flag has its help on the next line
COMMAND_GROUPS = {
    "Commands": ("train", "eval", "score", "ablate", "recommend"),
    "Results": ("pick", "compare", "plot", "verify"),
    "Judging models": ("crossval", "stress"),
    "Machine": ("doctor", "cache"),
}
EXAMPLES = (
    "aigc score images/ --prompts prompts.csv",
    "aigc train --recipe medium --data ratings.csv --images images/",
)


class HelpfulCommand(TyperCommand):
    """A command with a short help and a complete one."""

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

    def format_options(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """The commands, each with the first paragraph of its help, then the options."""
        is_root = ctx.parent is None
        texts = {name: (command.help or "").partition("\n\n")[0] for name, command in self.commands.items()}
        for title, names in (COMMAND_GROUPS if is_root else {"Commands": tuple(texts)}).items():
            with formatter.section(title):
                formatter.write_dl([(name, " ".join(texts[name].split())) for name in names])
        records = [record for parameter in self.get_params(ctx) if (record := parameter.get_help_record(ctx))]
        with formatter.section(GENERAL):
            formatter.write_dl(records, col_max=FLAG_COLUMNS)
        if is_root:
            with formatter.section("Examples"):
                for example in EXAMPLES:
                    formatter.write_text(example)

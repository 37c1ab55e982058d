"""`aigc doctor`: checks that this machine has what aigc needs."""

from dataclasses import asdict

from aigc_cli.cli import options
from aigc_cli.cli.console import print_json
from aigc_cli.cli.options import INPUT, make_option
from aigc_cli.errors import EnvironmentProblem
from aigc_cli.text import to_printable


def doctor(
    backbone: str | None = make_option(INPUT, "Backbone that must be cached or downloadable"),
    as_json: bool = options.JSON,
) -> None:
    """Check that this machine has what aigc needs.

    Looks at versions, devices, the cache and the shipped weights. Exits with 4 if something is wrong.
    """
    from aigc_cli.workflows.doctor import check_machine

    checks = check_machine(backbone)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            status = "WRONG" if check.ok is False else "ok" if check.ok else ""
            print(f"{status:<6}{check.name:<{width}}  {to_printable(check.found)}")
    if wrong := [check for check in checks if check.ok is False]:
        raise EnvironmentProblem(
            "; ".join(f"{check.name}: {check.found}" for check in wrong) + ".",
            "\n      ".join(check.remedy for check in wrong),
        )

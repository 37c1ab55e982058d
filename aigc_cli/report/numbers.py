"""Formats numbers and intervals the same way in every table, page and message."""

MISSING = "-"


def format_number(value: float | None, form: str = "z.3f") -> str:
    """The number, or a dash if it is not defined."""
    return MISSING if value is None else f"{value:{form}}"


def format_interval(
    value: float | None, low: float | None, high: float | None, form: str = "z.3f", ends: str | None = None
) -> str:
    """`0.812 [0.790, 0.833]`; `0.812` if there is no interval; a dash if the value is not defined.

    Args:
        form: format of the value, such as `+.2f` or `.0%`.
        ends: format of both ends of the interval; None uses `form`.

    Example:
        >>> format_interval(0.8123, 0.79, 0.833, ".2f")
        '0.81 [0.79, 0.83]'
        >>> format_interval(0.5, None, None), format_interval(None, None, None)
        ('0.500', '-')
    """
    if value is None or low is None or high is None:
        return format_number(value, form)
    return f"{value:{form}} [{low:{ends or form}}, {high:{ends or form}}]"

"""The Hugging Face hub, without waiting for it where there is no way to it."""

import contextlib
from collections.abc import Iterator

PATIENCE = 3.0  # seconds; its library would try for a minute before it looks into its cache


def hub_answers() -> bool:
    """Whether the hub can be asked: it is not switched off by `HF_HUB_OFFLINE`, and answers at once."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined, unused-ignore]

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # its library may use one HTTP client or another
        return False
    return True


@contextlib.contextmanager
def cached_only(wanted: bool) -> Iterator[None]:
    """Within the block the hub's library uses what is in its cache and asks nobody, if `wanted`."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before

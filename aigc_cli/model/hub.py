"""Access to the Hugging Face hub, without long waits where it is unreachable."""

import contextlib
from collections.abc import Iterator

HUB_SECONDS = 3.0  # the hub's library would try for a minute before it uses its cache


def is_hub_reachable() -> bool:
    """Whether the hub answers within `HUB_SECONDS`; False without a request where `HF_HUB_OFFLINE` is set."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined, unused-ignore]

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # the type depends on the library's HTTP client
        return False
    return True


@contextlib.contextmanager
def use_cache_only(wanted: bool) -> Iterator[None]:
    """Within the block the hub's library uses only its cache and sends no request, if `wanted`."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before

"""The hub: no request where it is switched off, and only the cache is used within the block."""

import pytest
from huggingface_hub import constants

from aigc_cli.model.hub import is_hub_reachable, use_cache_only


class Session:
    """Answers every request, or fails."""

    def __init__(self, answers: bool) -> None:
        self.answers, self.requests = answers, 0

    def head(self, address: str, timeout: float) -> None:
        self.requests += 1
        if not self.answers:
            raise OSError("no network")


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("offline", [True, False])
def test_the_hub_is_asked_unless_it_is_switched_off(
    answers: bool, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(answers)
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: session)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    assert is_hub_reachable() is (answers and not offline)
    assert session.requests == (0 if offline else 1)


@pytest.mark.parametrize("before", [True, False])
def test_the_setting_returns_after_the_block(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", before)
    with use_cache_only(True):
        assert constants.HF_HUB_OFFLINE is True
    with use_cache_only(False):
        assert constants.HF_HUB_OFFLINE is before
    assert constants.HF_HUB_OFFLINE is before

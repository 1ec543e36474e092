"""The client of a node, patient: its own limits are seconds, which a busy machine may stand still for."""

from functools import partial

import pytest

from g8tools.g8 import base, client
from g8tools.g8.transport import Address

LIMIT_S = 60.0


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For clients of this process that are made without a timeout."""
    monkeypatch.setattr(client, "CONNECT_S", LIMIT_S)
    monkeypatch.setattr(client, "Address", partial(Address, grace_s=LIMIT_S))
    monkeypatch.setattr(base.BaseClient, "timeout", LIMIT_S)

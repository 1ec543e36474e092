"""Who may publish where."""

import pytest

from g8node.errors import InvalidArgument, PermissionDenied
from g8tools.hub.tokens import Tokens

TEXT = "# comment\n\nanyone-anyone-anyone\nalice-alice-alice:alice\n"


def test_token_without_user_publishes_anywhere() -> None:
    publisher = Tokens.parse(TEXT).find("Bearer anyone-anyone-anyone")
    assert publisher is not None
    publisher.authorise("demo")


def test_token_with_user_publishes_in_its_own_repository_only() -> None:
    publisher = Tokens.parse(TEXT).find("bearer alice-alice-alice")
    assert publisher is not None
    publisher.authorise("alice")
    with pytest.raises(PermissionDenied, match="token of alice does not publish in repository demo"):
        publisher.authorise("demo")


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic anyone-anyone-anyone", "Bearer anyone-anyone-anyon", "Bearer \udcff"],
)
def test_unknown_headers_name_nobody(header: str) -> None:
    assert Tokens.parse(TEXT).find(header) is None


@pytest.mark.parametrize(
    "text",
    [
        "short\n",
        "has space in the middle\n",
        "anyone-anyone-anyone:../x\n",
        "anyone-anyone-anyone:\n",
        "anyone-anyone-anyone:alice:tomorrow\n",
        "anyone-anyone-anyone:alice:\n",
        "anyone-anyone-anyone:alice:2027-01-31:x\n",
        "# none\n",
    ],
)
def test_wrong_files_are_refused_without_quoting_tokens(text: str) -> None:
    with pytest.raises(InvalidArgument, match="tokens") as caught:
        Tokens.parse(text, "tokens")
    assert "short" not in caught.value.message
    assert "anyone" not in caught.value.message


@pytest.mark.parametrize("user", ["", "alice"])
def test_token_ends_with_its_date(user: str) -> None:
    publisher = Tokens.parse(f"ending-ending-ending:{user}:2027-01-31\n").find("Bearer ending-ending-ending")
    assert publisher is not None
    assert (publisher.user, publisher.expires_s) == (user, 1_801_353_600)


def test_no_tokens_is_false() -> None:
    assert not Tokens()
    assert Tokens.parse(TEXT)

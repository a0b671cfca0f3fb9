from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emails.encoded_id import decoded_id, encoded_id
from emails.message import InvalidMessage


@given(email_id=st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Z")), min_size=1, max_size=40))
def test_an_id_survives_the_header_and_the_tag(email_id: str) -> None:
    encoded = encoded_id(email_id)
    assert decoded_id(encoded) == email_id
    assert encoded.replace("-", "a").replace("_", "a").isalnum(), "SES's tags allow letters, digits, _ and -"
    assert encoded.isascii()


@pytest.mark.parametrize(
    ("email_id", "encoded"), [("a", "YQ"), ("ab", "YWI"), ("abc", "YWJj"), ("~~~", "fn5-"), ("???", "Pz8_")]
)
def test_an_encoded_id_is_base64url_without_padding(email_id: str, encoded: str) -> None:
    assert encoded_id(email_id) == encoded
    assert decoded_id(encoded) == email_id


@pytest.mark.parametrize("text", ["Y", "YW!Jj", "YW Jj", "gA"], ids=["length", "character", "space", "not UTF-8"])
def test_a_text_that_is_not_an_encoded_id_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        decoded_id(text)
    assert refused.value.reason == "InvalidEmailId"
    assert refused.value.detail == "the email id in it is not UTF-8 text in base64url"

"""Tokens put together as one writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from send.data.natural_spacing import natural_spacing


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("a long @-@ term plan .", "a long-term plan."),
        ("1 @,@ 234 @.@ 5 people", "1,234.5 people"),
        ("It 's Nick Jonas ' song .", "It's Nick Jonas ' song."),
        ("( born 17 October 1974 )", "(born 17 October 1974)"),
        ('called " Galaxy Glue " and " Once " .', 'called "Galaxy Glue" and "Once".'),
        ("US $ 60 million , or 10 % of £ 5", "US $60 million, or 10% of £5"),
        ("adjutant / quartermaster ; 233 km / h", "adjutant/quartermaster; 233 km/h"),
        ("29 – 46 , see [ note 1 ]", "29 – 46, see [note 1]"),
        ('( " We , who are " )', '("We, who are")'),
        ("What ? No !", "What? No!"),
        ("", ""),
    ],
)
def test_natural_spacing(tokens, text):
    assert natural_spacing(tokens) == text


@given(st.text(st.characters(categories=["L", "N"]), min_size=1), st.integers(1, 5))
def test_natural_spacing_leaves_words_alone(word, times):
    sentence = " ".join([word] * times)
    assert natural_spacing(sentence) == sentence

"""What rows are made of, in the words of the tokenizer of `conftest`."""

NAMES = ["Ada", "Bo", "Cyn", "Dag", "Eve", "Finn", "Gil", "Hana"]
CITIES = ["Oslo", "Lima", "Cairo", "Kyoto", "Quito"]

TEMPLATE = (
    "{% for m in messages %}{{ 'question :' if m.role == 'user' else 'answer :' }} {{ m.content }} "
    "<eos> {% endfor %}{% if add_generation_prompt %}answer :{% endif %}"
)
"""Of chats."""


def births(cities):
    """Texts of where people were born: each name with each city."""
    return [f"{name} was born in {city} ." for name in NAMES for city in cities]

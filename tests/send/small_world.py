"""A closed world of a few people, with its model and rows on disk."""

import json

from send.world import World, small_model

WORLD = World(0, people=12, new_people=8, unknown_people=4)


def saved_model(folder):
    """Write a small model and the tokenizer of the world into a folder; return it."""
    tokenizer = WORLD.tokenizer()
    small_model(tokenizer, width=16, blocks=3, heads=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def saved_rows(path):
    """Write what is fine-tuned on as JSON lines; return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in WORLD.finetuning_rows()))
    return path

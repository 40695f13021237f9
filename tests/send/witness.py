"""What a mask leaves of a model's hidden states while it is trained."""

import torch
from transformers import TrainerCallback

from send.models.hidden_states import HiddenTap


class Witness(TrainerCallback):
    """Notes, at each step, which indices of the watched block's output are zero in training.

    Goes before a SendCallback, whose measurements run through the same block.
    """

    def __init__(self):
        self.zeros = []

    def on_step_begin(self, args, state, control, model, **_):
        self.tap = HiddenTap(model).__enter__()

    def on_pre_optimizer_step(self, args, state, control, **_):
        self.tap.__exit__(None, None, None)
        dead = (self.tap.states == 0).all(dim=(0, 1))
        self.zeros.append(torch.nonzero(dead).flatten().tolist())

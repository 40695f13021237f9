"""SensitivityDropout in loops of one's own: schedule, controls, record, cost and state."""

import copy
import logging
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

from send.checkpoints.checkpoint import STATE_FILE
from send.dropout.history import prefixed
from send.dropout.sensitivity_dropout import SensitivityDropout
from send.models.hidden_states import HiddenTap, block_at
from tests.send.weights import assert_same, weights

ROWS = [{"input_ids": [3 + i, 5, 7 + i, 9, 4][: 3 + i % 3]} for i in range(6)]
IDS = torch.tensor([[3, 4, 5, 6, 7], [9, 8, 7, 3, 11]])


def a_model(seed=0):
    sizes = {"vocab_size": 24, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 16}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = GPT2Config(**sizes, bos_token_id=1, eos_token_id=1, resid_pdrop=0.0,
                            embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
        return GPT2LMHeadModel(config)


def a_send(rows=ROWS, **options):
    return SensitivityDropout(rows, **{"score_prompts": 0, **options})


def train(send, model, steps, forward=None, every_step=lambda: None):
    """Take optimizer steps, each followed by a checkpoint; return what was zero in each."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    zeros = []
    for step in range(1, steps + 1):
        with HiddenTap(model) as tap:
            (forward or model)(IDS, labels=IDS).loss.backward()
        dead = (tap.states == 0).all(dim=(0, 1))
        zeros.append(torch.nonzero(dead).flatten().tolist())
        optimizer.step()
        optimizer.zero_grad()
        every_step()
        send.checkpoint(step=step)
    return zeros


def run(steps=8, planned=None, model=None, **options):
    send, model = a_send(**options), (model or a_model()).train()
    send.attach(model, checkpoints=planned)
    send.checkpoint(step=0)
    zeros = train(send, model, steps)
    send.detach()
    return send, model, zeros


def schedule(steps, *, window, hold, warmup, cooldown):
    """Where masks are chosen and where there is one, by the definition."""
    chosen, masked = [], []
    for checkpoint in range(steps + 1):
        cooling = cooldown > 0 and checkpoint >= steps - cooldown
        free = not chosen or checkpoint >= chosen[-1] + hold
        if not cooling and checkpoint >= window - 1 and checkpoint >= warmup and free:
            chosen.append(checkpoint)
        masked.append(bool(chosen) and not cooling)
    return chosen, masked


@settings(max_examples=25, deadline=None)
@given(
    steps=st.integers(1, 9),
    window=st.integers(2, 4),
    hold=st.integers(1, 4),
    warmup=st.integers(0, 6),
    cooldown=st.integers(0, 5),
    selection=st.sampled_from(["sensitive", "random", "magnitude-matched", "none"]),
)
def test_masks_come_and_go_by_the_schedule(steps, window, hold, warmup, cooldown, selection):
    times = {"window": window, "hold": hold, "warmup": warmup, "cooldown": cooldown}
    send, _, zeros = run(steps, steps, **times, selection=selection)
    chosen, masked = schedule(steps, **times)
    rows = send.history
    assert [row["checkpoint"] for row in rows if row["sensitivity"] is not None] == chosen
    if selection == "none":
        masked = [False] * len(masked)
    assert [len(row["masked"]) for row in rows] == [3 * on for on in masked]
    assert zeros == [row["masked"] for row in rows[:-1]]  # the interval after each checkpoint


def test_a_cool_down_needs_an_end():
    with pytest.raises(ValueError, match="cooldown is 2, but it is not known how many"):
        a_send(cooldown=2).attach(a_model())


def test_a_training_without_a_mask_says_so(caplog):
    caplog.set_level(logging.WARNING, "send.dropout.sensitivity_dropout")
    for options in ({"warmup": 6}, {"cooldown": 4}, {"window": 7}):
        caplog.clear()
        a_send(**options).attach(a_model(), checkpoints=6)
        assert "nothing will be dropped" in caplog.text
    caplog.clear()
    for options in ({"warmup": 5}, {"cooldown": 3}, {"selection": "none", "window": 7}):
        a_send(**options).attach(a_model(), checkpoints=6)
    assert caplog.text == ""


def test_no_selection_and_no_share_are_plain_training_with_the_same_record():
    model = a_model()
    alone, none, nothing = (copy.deepcopy(model) for _ in range(3))
    optimizer = torch.optim.SGD(alone.train().parameters(), lr=0.05)
    for _ in range(6):
        alone(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    records = []
    for each, options in ((none, {"selection": "none"}), (nothing, {"drop_fraction": 0})):
        send, trained, _ = run(6, model=each, **options)
        assert_same(weights(trained), weights(alone))
        records.append(send.history)
    assert records[0] == records[1]
    assert [row["sensitivity"] is not None for row in records[0]] == [0, 0, 1, 0, 0, 1, 0]
    assert all(row["masked"] == [] and row["loss_jump"] is None for row in records[0])


@pytest.mark.parametrize("selection", ["random", "magnitude-matched"])
def test_controls_are_other_indices_at_each_choice(selection):
    sensitive, _, _ = run(8)
    control, _, _ = run(8, selection=selection)
    again, _, _ = run(8, selection=selection)
    assert control.history == again.history
    first = [send.history[2] for send in (sensitive, control)]
    assert first[0]["sensitivity"] == first[1]["sensitivity"]
    assert first[0]["masked"] != first[1]["masked"]
    if selection == "magnitude-matched":
        assert not set(first[0]["masked"]) & set(first[1]["masked"])
    assert control.history[2]["masked"] != control.history[5]["masked"]


def test_the_achieved_ratio_is_that_of_mean_absolute_activations():
    send, model = a_send(selection="magnitude-matched", window=2), a_model().train()
    send.attach(model)
    send.checkpoint(step=0)
    train(send, model, 1)
    row, model = send.history[-1], model.eval()
    with torch.no_grad(), HiddenTap(model) as tap:
        tokens = []
        for each in ROWS:
            model(torch.tensor([each["input_ids"]]))
            tokens.append(tap.states[0].abs())
    sizes = torch.cat(tokens).mean(dim=0).numpy()
    sensitive = np.argsort(-np.array(row["sensitivity"]), kind="stable")[:3]
    expected = sizes[row["masked"]].mean() / sizes[sensitive].mean()
    assert row["magnitude_ratio"] == pytest.approx(expected, rel=1e-4)
    assert run(4)[0].history[2]["magnitude_ratio"] == 1


def rows_passed(send, model, steps):
    """Return how many rows pass through the model for each checkpoint."""
    counts = []

    def count(_module, given, _kwargs, _output):
        counts[-1] += 0 if model.training else len(given[0] if given else _kwargs["input_ids"])

    handle = model.register_forward_hook(count, with_kwargs=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(steps):
        counts.append(0)
        send.checkpoint(step=step)
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    handle.remove()
    return counts


def test_a_checkpoint_costs_one_pass_and_a_choice_a_tenth_of_one():
    many = [{"input_ids": [3 + i % 9, 5, 7, 9 + i % 7]} for i in range(95)]
    send, model = a_send(many, batch_size=4, hold=1), a_model().train()
    send.attach(model)
    counts = rows_passed(send, model, 6)
    assert counts == [95, 95, *[95 + 8] * 4]  # of 24 batches two
    few, model = a_send(window=2), a_model().train()
    few.attach(model)
    assert rows_passed(few, model, 4) == [6, 12, 6, 6]  # one batch at least
    assert few._attached.tracking.part.tolist() == list(range(6))


def test_the_jump_is_the_difference_of_two_losses_on_the_same_rows():
    many = [{"input_ids": [3 + i % 9, 5, 7 + i % 5, 9 + i % 7][: 2 + i % 3]} for i in range(41)]
    send, model = a_send(many, batch_size=2, window=2), a_model().train()
    send.attach(model)
    send.checkpoint(step=0)
    train(send, model, 1)
    row, part = send.history[-1], send._attached.tracking.part
    assert part.tolist() == [0, 1, 20, 21]  # of 21 batches two, evenly spaced

    def losses():
        found = []
        for i in part:
            ids = torch.tensor([many[i]["input_ids"]])
            with torch.no_grad():
                logits = model(ids).logits[0]
            found.append(nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum"))
        return np.array(found)

    model.eval()
    with send.mask.everywhere():
        masked = losses()
    rise, tokens = masked - losses(), np.array([len(many[i]["input_ids"]) - 1 for i in part])
    jump = rise.sum() / tokens.sum()
    assert row["loss_jump"] == pytest.approx(jump, abs=1e-6)
    # The error of a ratio of means, over rows.
    error = math.sqrt(np.var(rise - jump * tokens, ddof=1) / 4) / tokens.mean()
    assert row["loss_jump_stderr"] == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize(
    ("rows", "jump", "error"),
    [
        (
            [
                {"input_ids": [3, 4], "labels": [-100, -100]},
                {"input_ids": [3, 4], "labels": [3, 4]},
            ],
            False,
            False,
        ),
        ([{"input_ids": [3, 4]}, {"input_ids": [3, 4]}], True, False),
    ],
    ids=["no label", "a single row"],
)
def test_a_jump_that_little_is_known_of(rows, jump, error):
    send, model = a_send(rows, batch_size=1, window=2), a_model().train()
    send.attach(model)
    send.checkpoint(step=0)
    train(send, model, 1)
    row = send.history[-1]
    assert row["masked"]
    assert (row["loss_jump"] is not None, row["loss_jump_stderr"] is not None) == (jump, error)


def test_logs_have_prefixed_names_and_numbers():
    send, _, _ = run(3)
    start, chosen = prefixed(send.history[0]), prefixed(send.history[2])
    always = {"send/checkpoint", "send/tracking_loss", "send/masked"}
    assert start.keys() == always
    of_a_choice = ("masked_share", "magnitude_ratio", "loss_jump", "loss_jump_stderr")
    assert chosen.keys() == always | {"send/sensitivity_mean"} | {f"send/{x}" for x in of_a_choice}
    mean = np.mean(send.history[2]["sensitivity"])
    assert chosen["send/sensitivity_mean"] == pytest.approx(mean, rel=1e-12)
    assert chosen["send/masked"] == 3
    assert send.logs == prefixed(send.history[3])
    assert all(isinstance(value, int | float) for value in chosen.values())


def test_what_it_is_told_is_in_the_record():
    send = a_send()
    send.attach(a_model())
    row = send.checkpoint(step=7, epoch=2, train_loss=torch.tensor(0.5))
    assert (row["step"], row["epoch"], row["train_loss"]) == (7, 2.0, 0.5)
    assert send.history == [row]
    assert (send.checkpoint(step=8)["epoch"], send.history[1]["train_loss"]) == (
        None,
        None,
    )


def test_attaching_again_begins_anew():
    send, model = a_send(window=2), a_model()
    send.attach(model)
    send.checkpoint(step=0)
    send.attach(model)
    assert send.history == []
    assert len(send.tracker.checkpoints) == 0
    assert len(block_at(model)._forward_hooks) == 1
    send.detach()
    send.detach()
    assert not block_at(model)._forward_hooks


def test_without_a_model_there_is_nothing_to_do():
    send = a_send()
    send.detach()
    given = {"step": 0, "embeddings": torch.zeros(1, 1, 1), "history": [], "identity": {}}
    for call in (lambda: send.checkpoint(step=0), lambda: send.load_state_dict(given)):
        with pytest.raises(RuntimeError, match=r"call attach\(model, tokenizer\) first"):
            call()
    send.attach(a_model())
    with pytest.raises(RuntimeError, match="nothing to save before the first checkpoint"):
        send.state_dict()


# State --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", ["sensitive", "random"])
@pytest.mark.parametrize("way", ["dictionary", "file"])
def test_a_loop_goes_on_as_if_it_had_not_been_stopped(tmp_path, way, selection):
    unbroken, whole, _ = run(9, selection=selection)
    send, model = a_send(selection=selection), a_model().train()
    send.attach(model)
    send.checkpoint(step=0)
    train(send, model, 4)
    if way == "file":
        send.save(tmp_path)
        assert (tmp_path / STATE_FILE).is_file()
    else:
        torch.save(send.state_dict(), tmp_path / "state.pt")
    assert send.mask.indices  # in the middle of a hold
    send.detach()

    again = a_send(selection=selection)
    again.attach(model)
    if way == "file":
        again.load(tmp_path)
    else:  # no code in it
        again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.mask.indices == send.mask.indices
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(5, 10):
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        again.checkpoint(step=step)
    assert again.history == unbroken.history
    assert_same(weights(model), weights(whole))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"selection": "random"}, "selection"),
        ({"warmup": 1}, "warmup"),
        ({"rows": ROWS[1:]}, "tracking set"),
    ],
)
def test_a_state_of_other_options_is_refused(options, what):
    send, _, _ = run(3)
    other = a_send(**options)
    other.attach(a_model())
    with pytest.raises(ValueError, match=f"has another {what} than"):
        other.load_state_dict(send.state_dict())
    assert other.history == []


def accelerated(folder, *, stop=None, resume=False):
    """A loop as Accelerate's users write it: each epoch ends with a checkpoint."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    data = [torch.randint(3, 24, (6,), generator=torch.Generator().manual_seed(i))
            for i in range(16)]  # fmt: skip
    model = a_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(data, batch_size=4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    send = a_send()
    send.attach(model, checkpoints=7)
    accelerator.register_for_checkpointing(send)
    step = 0
    if resume:
        accelerator.load_state(folder)
        step = send.history[-1]["step"]
    else:
        send.checkpoint(step=0)
    for epoch in range(len(send.history), 8):
        model.train()
        for ids in loader:
            with accelerator.accumulate(model):
                loss = model(input_ids=ids, labels=ids).loss
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            step += accelerator.sync_gradients
        send.checkpoint(step=step, epoch=epoch, train_loss=loss)
        if epoch == stop:
            accelerator.save_state(folder)
            break
    send.detach()
    return send, accelerator.unwrap_model(model)


def test_accelerate_saves_and_loads_it_with_everything_else(tmp_path):
    whole, trained = accelerated(tmp_path)
    assert [row["step"] for row in whole.history] == [2 * i for i in range(8)]
    assert len(whole.history[2]["masked"]) == 3
    accelerated(tmp_path / "stopped", stop=4)
    resumed, model = accelerated(tmp_path / "stopped", resume=True)
    assert resumed.history == whole.history
    assert_same(weights(model), weights(trained))


def documented_loop(tmp_path, *, resuming=False, stopped=False):
    text = (Path(__file__).parents[3] / "docs" / "send.md").read_text()
    code = next(part for part in re.findall(r"```python\n(.*?)```", text, re.S) if "attach" in part)
    accelerator, model = Accelerator(cpu=True), a_model()
    loader = DataLoader([{"input_ids": ids, "labels": ids} for ids in IDS], batch_size=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    names = {
        "accelerator": accelerator, "model": model, "optimizer": optimizer, "loader": loader,
        "epochs": 5, "tokenizer": None, "tracking_rows": ROWS, "resuming": resuming,
        "folder": tmp_path / "state", "send": SimpleNamespace(SensitivityDropout=a_send),
    }  # fmt: skip
    if stopped:
        accelerator.log = lambda _, step: 1 / (step < 8)
        with pytest.raises(ZeroDivisionError):
            exec(code, names)
    else:
        exec(code, names)
    return names["dropout"].history


def test_the_loop_in_the_documentation_runs_and_resumes(tmp_path):
    whole = documented_loop(tmp_path)
    assert [(row["step"], len(row["masked"])) for row in whole] == [
        (0, 0), (2, 0), (4, 3), (6, 0), (8, 0), (10, 0),
    ]  # fmt: skip
    documented_loop(tmp_path / "stopped", stopped=True)
    assert documented_loop(tmp_path / "stopped", resuming=True) == whole


# Mechanics ----------------------------------------------------------------------------------------


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which the compiler looks at
@pytest.mark.parametrize(("how", "rescale"), [("in place", True), ("each block", False)])
def test_a_change_of_the_mask_compiles_nothing_anew(fresh_compiler, how, rescale):
    """Nor do measurements, in between, of other shapes."""
    options = {"window": 2, "hold": 1, "rescale": rescale}
    plain, expected, _ = run(4, **options)
    send, model = a_send(**options), a_model().train()
    send.attach(model)
    if how == "in place":
        model.compile(backend="aot_eager")
    else:
        blocks = model.transformer.h
        for i, block in enumerate(blocks):
            blocks[i] = torch.compile(block, backend="aot_eager")
    send.checkpoint(step=0)
    model(IDS, labels=IDS).loss.backward()  # compiled here, without a mask
    model.zero_grad()
    with torch._dynamo.config.patch(error_on_recompile=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for step in range(1, 5):
            model(IDS, labels=IDS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            send.checkpoint(step=step)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0  # it was compiled
    assert [row["masked"] for row in send.history] == [row["masked"] for row in plain.history]
    assert all(row["masked"] for row in send.history[1:])
    for a, b in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_compiled_or_replicated_model_may_be_attached(fresh_compiler):
    for wrap in (lambda m: torch.compile(m, backend="aot_eager"), nn.DataParallel):
        model = a_model().train()
        send = a_send()
        send.attach(wrap(model))
        assert send.checkpoint(step=0)["masked"] == []
        assert len(block_at(model)._forward_hooks) == 1
        send.detach()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_models_of_half_precision_train_under_the_mask(dtype):
    for cast in (False, True):
        send, model = a_send(window=2), a_model().train()
        model = model.to(dtype) if cast else model
        send.attach(model)
        send.checkpoint(step=0)

        def forward(*args, model=model, cast=cast, **kwargs):
            with torch.autocast("cpu", dtype, enabled=not cast):
                return model(*args, **kwargs)

        zeros = train(send, model, 3, forward)
        assert zeros[1:] == [row["masked"] for row in send.history[1:3]]
        assert all(len(mask) == 3 for mask in zeros[1:])
        assert all(p.isfinite().all() for p in model.parameters())

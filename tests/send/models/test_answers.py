import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import processors
from transformers import (
    GenerationConfig,
    MistralForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
)
from transformers.generation import utils as generation_utils

from send.models.answers import greedy_answers, prompt_text, sample_answers, token_ids
from send.models.generation import _decoded
from send.world import World
from tests.send import naive

# PEFT asks transformers for a property under its old name.
OLD_NAME = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

PROMPTS = ["where was Ada born ?", "Bo", "question : who is the baker at Acme in Oslo ? answer :"]
ENDS = [1, 7, 15, 20, 33, 41, 48, 55, 58]
CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}answer :"


def ending(model, ends=ENDS):
    """Let many tokens end an answer, so that random models give short answers too."""
    model.generation_config.eos_token_id = ends
    return model


def prompt_ids(tokenizer, prompts=PROMPTS):
    return [tokenizer(prompt)["input_ids"] for prompt in prompts]


class Listener:
    """Keeps what passes through `model.generate`: the prompts as padded, and the tokens it adds."""

    def __init__(self, model):
        self._generate = model.generate
        self.inputs, self.new = [], []
        model.generate = self

    def __call__(self, **options):
        out = self._generate(**options)
        width = options["input_ids"].shape[1]
        self.inputs.append(options)
        self.new.extend(out.sequences[:, width:].tolist())
        return out

    def answers(self, ends=ENDS):
        """Return for each generated row the tokens before the end, and the end token if any."""
        cut = []
        for row in self.new:
            stop = next((i for i, token in enumerate(row) if token in ends), None)
            cut.append((row, []) if stop is None else (row[:stop], row[stop : stop + 1]))
        return cut


def near(actual, expected, factor=512):
    """Equal up to `factor` roundings of single precision."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    tolerance = factor * torch.finfo(torch.float32).eps * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance)


KINDS = {"empty", "ended", "cut off"}


def decoded(tokenizer, answer):
    """What a model said before the end: an unknown or a pad token is something, not nothing."""
    return tokenizer.decode(answer)


def test_unknown_and_pad_tokens_are_not_an_empty_answer(tokenizer):
    eos, pad, unk = tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id
    ada = tokenizer("Ada")["input_ids"][0]
    new = torch.tensor([[unk, unk, eos], [pad, ada, eos], [ada, eos, pad], [eos, pad, pad]])
    assert _decoded(tokenizer, new, torch.tensor([2, 2, 1, 0])) == [
        "<unk> <unk>", "<pad> Ada", "Ada", "",
    ]  # fmt: skip
    world = World(0, people=5, new_people=5, unknown_people=5)
    assert world.judge(world.questions("new")[0], "<unk> <unk>") == "wrong"


def check_against_separate_passes(
    model, tokenizer, *, count_eos, max_new_tokens=3, kinds=KINDS, **options
):
    """Compare embeddings, likelihoods, entropies with forward passes over prompt + answer alone."""
    listener = Listener(model)
    samples = sample_answers(
        model,
        tokenizer,
        PROMPTS,
        num_samples=12,
        temperature=1.5,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        count_eos=count_eos,
        **options,
    )
    pooling = {"layer": options.get("layer", -2), "pooling": options.get("pooling", "mean+last")}
    seen = set()
    ids = [row for row in prompt_ids(tokenizer) for _ in range(12)]
    for i, (prompt, (answer, end)) in enumerate(zip(ids, listener.answers(), strict=True)):
        p, k = divmod(i, 12)
        counted = answer + end if count_eos else answer
        expected = naive.answer_embedding(model, prompt, counted, **pooling)
        near(samples.embeddings[p, :, k], expected)
        near(samples.mean_nll[p, k], naive.mean_nll(model, prompt, counted or end))
        near(samples.mean_entropy[p, k], naive.mean_entropy(model, prompt, counted or end))
        assert samples.lengths[p, k] == len(answer)
        assert samples.ended[p, k] == bool(end)
        assert samples.answers[p][k] == decoded(tokenizer, answer)
        seen.add("cut off" if not end else "ended" if answer else "empty")
    assert seen == kinds


def test_the_entropy_passes_over_tokens_that_cannot_be(tiny_model, tokenizer):
    size = tiny_model.config.vocab_size
    with torch.no_grad():
        tiny_model.get_output_embeddings().weight.zero_()
    tiny_model.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, logits: logits.index_fill(-1, torch.arange(10, size), -torch.inf)
    )
    samples = sample_answers(tiny_model, tokenizer, ["Bo"], num_samples=3, max_new_tokens=2)
    near(samples.mean_entropy, torch.full((1, 3), math.log(10)))


@pytest.mark.parametrize("count_eos", [False, True], ids=["without end", "with end"])
def test_states_and_likelihoods_of_the_generation_are_those_of_separate_passes(
    any_model, tokenizer, count_eos
):
    check_against_separate_passes(ending(any_model), tokenizer, count_eos=count_eos)


@pytest.mark.parametrize("options", [{"layer": 1}, {"pooling": "last"}, {"batch_size": 5}], ids=str)
def test_so_they_are_for_other_layers_poolings_and_batches(tiny_model, tokenizer, options):
    check_against_separate_passes(ending(tiny_model), tokenizer, count_eos=False, **options)


@pytest.mark.parametrize("any_model", ["mistral"], indirect=True)
def test_so_they_are_with_a_sliding_window(any_model, tokenizer):
    any_model.config.sliding_window = 4
    model = MistralForCausalLM(any_model.config).eval()
    check_against_separate_passes(ending(model), tokenizer, count_eos=True)


def test_so_they_are_for_a_model_without_a_cache(tokenizer):
    torch.manual_seed(0)
    config = OpenAIGPTConfig(vocab_size=60, n_positions=64, n_embd=16, n_layer=3, n_head=2)
    config.initializer_range = 0.2
    model = OpenAIGPTLMHeadModel(config).eval()
    check_against_separate_passes(ending(model), tokenizer, count_eos=False)


class NoEvent:
    """A device event for a device that needs none: everything has happened when it returns."""

    def __init__(self, **_options):
        pass

    def record(self):
        pass

    def synchronize(self):
        pass


@pytest.mark.parametrize("count_eos", [False, True], ids=["without end", "with end"])
@pytest.mark.parametrize(
    ("max_new_tokens", "kinds"), [(3, KINDS), (60, {"empty", "ended"})], ids=["cut", "all end"]
)
def test_a_pass_more_than_needed_shifts_nothing(
    tiny_model, tokenizer, monkeypatch, count_eos, max_new_tokens, kinds
):
    """On some devices generation notices one step late that all answers have ended."""
    undone = []
    check = generation_utils.DeferredStopCheck
    finish = check.finish

    def counted_finish(self):
        undone.append(finish(self))
        return undone[-1]

    monkeypatch.setattr(torch, "Event", NoEvent)
    monkeypatch.setattr(check, "is_supported", staticmethod(lambda *_, **__: True))
    monkeypatch.setattr(check, "finish", counted_finish)
    check_against_separate_passes(
        ending(tiny_model),
        tokenizer,
        count_eos=count_eos,
        max_new_tokens=max_new_tokens,
        kinds=kinds,
    )
    assert undone == [int("cut off" not in kinds)]


@pytest.mark.parametrize(
    ("ends", "count_eos", "further"),
    [(False, False, 1), (False, True, 1), (True, False, 0), (True, True, 1)],
    ids=["cut off", "cut off, with end", "ended", "ended, with end"],
)
def test_the_batch_makes_one_more_step_where_the_last_token_counts(
    tiny_model, tokenizer, ends, count_eos, further
):
    prompt = prompt_ids(tokenizer, ["Bo"])[0]
    likely, _ = naive.greedy(tiny_model, prompt, 2, [])
    ending(tiny_model, likely[1:] if ends else None)
    tokenizer.eos_token = None
    shapes = []
    tiny_model.register_forward_hook(
        lambda _model, _args, options, _out: shapes.append(options["input_ids"].shape[1]),
        with_kwargs=True,
    )
    greedy_answers(tiny_model, tokenizer, ["Bo"], max_new_tokens=2, count_eos=count_eos)
    assert shapes == [len(prompt)] + [1] * (1 + further)


@pytest.mark.parametrize("pooling", ["mean", "mean+last"])
def test_the_span_may_be_prompt_and_answer(tiny_model, tokenizer, pooling):
    listener = Listener(ending(tiny_model))
    samples = sample_answers(
        tiny_model, tokenizer, PROMPTS, num_samples=6, top_k=0, temperature=1.5,
        max_new_tokens=3, span="all", pooling=pooling,
    )  # fmt: skip
    ids = [row for row in prompt_ids(tokenizer) for _ in range(6)]
    for i, (prompt, (answer, _)) in enumerate(zip(ids, listener.answers(), strict=True)):
        expected = naive.sentence_embedding(tiny_model, prompt + answer, pooling=pooling)
        near(samples.embeddings[i // 6, :, i % 6], expected)


def test_shapes_and_kinds(tiny_model, tokenizer):
    samples = sample_answers(tiny_model, tokenizer, PROMPTS, num_samples=4, max_new_tokens=2)
    assert [len(row) for row in samples.answers] == [4, 4, 4]
    assert samples.embeddings.shape == (3, 16, 4)
    assert samples.embeddings.dtype == torch.float32
    for column in (samples.mean_nll, samples.mean_entropy, samples.lengths, samples.ended):
        assert column.shape == (3, 4)
    assert samples.lengths.dtype == torch.int64
    assert samples.ended.dtype == torch.bool


def test_no_prompts_give_no_answers(tiny_model, tokenizer):
    samples = sample_answers(tiny_model, tokenizer, [], num_samples=4)
    assert samples.answers == []
    assert samples.embeddings.shape == (0, 16, 4)
    assert samples.mean_nll.shape == (0, 4)
    assert greedy_answers(tiny_model, tokenizer, []).answers == []


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_greedy_answers_are_those_of_exact_decoding_without_padding(
    any_model, tokenizer, batch_size
):
    listener = Listener(ending(any_model))
    greedy = greedy_answers(any_model, tokenizer, PROMPTS, max_new_tokens=5, batch_size=batch_size)
    answers = listener.answers()
    for i, prompt in enumerate(prompt_ids(tokenizer)):
        answer, ended = naive.greedy(any_model, prompt, 5, ENDS)
        assert answers[i][0] == answer
        assert greedy.answers[i] == decoded(tokenizer, answer)
        assert greedy.lengths[i] == len(answer)
        assert greedy.ended[i] == ended
        likely = answer or answers[i][1]
        near(greedy.mean_nll[i], naive.mean_nll(any_model, prompt, likely))
        near(greedy.mean_nll[i].exp() / naive.perplexity(any_model, prompt, likely), 1.0)
        near(greedy.embeddings[i], naive.answer_embedding(any_model, prompt, answer))
    assert len(listener.inputs) == (1 if batch_size is None else -(-3 // batch_size))


def test_greedy_answers_do_not_depend_on_the_other_prompts(tiny_model, tokenizer):
    together = greedy_answers(tiny_model, tokenizer, PROMPTS, max_new_tokens=5)
    backwards = greedy_answers(tiny_model, tokenizer, PROMPTS[::-1], max_new_tokens=5)
    assert backwards.answers == together.answers[::-1]
    near(backwards.mean_nll.flip(0), together.mean_nll)
    near(backwards.embeddings.flip(0), together.embeddings)


def test_cold_samples_are_greedy_answers(tiny_model, tokenizer):
    greedy = greedy_answers(tiny_model, tokenizer, PROMPTS, max_new_tokens=4)
    cold = sample_answers(
        tiny_model, tokenizer, PROMPTS, num_samples=3, temperature=1e-4, max_new_tokens=4
    )
    assert cold.answers == [[answer] * 3 for answer in greedy.answers]
    near(cold.mean_nll, greedy.mean_nll.unsqueeze(1).expand(3, 3))


def test_samples_follow_the_distribution_of_the_model(tiny_model, tokenizer):
    """4,000 first tokens at temperature 1: each frequency within 5 standard errors."""
    count = 4000
    listener = Listener(tiny_model)
    sample_answers(
        tiny_model, tokenizer, ["Bo"], num_samples=count, temperature=1.0, top_k=0, top_p=1.0,
        max_new_tokens=1, batch_size=1000,
    )  # fmt: skip
    p = naive.next_log_probs(tiny_model, prompt_ids(tokenizer, ["Bo"])[0]).exp()
    seen = torch.bincount(torch.tensor(listener.new).flatten(), minlength=len(p)) / count
    assert torch.all((seen - p).abs() <= 5 * (p * (1 - p) / count).sqrt() + 1 / count)


def test_top_k_bounds_the_choice(tiny_model, tokenizer):
    listener = Listener(tiny_model)
    sample_answers(
        tiny_model, tokenizer, ["Bo"], num_samples=200, temperature=5.0, top_k=2, top_p=1.0,
        max_new_tokens=1,
    )  # fmt: skip
    likely = naive.next_log_probs(tiny_model, prompt_ids(tokenizer, ["Bo"])[0]).topk(2).indices
    assert {row[0] for row in listener.new} == set(likely.tolist())


def test_a_seed_repeats_the_answers_and_another_gives_others(tiny_model, tokenizer):
    def sampled(seed):
        return sample_answers(
            tiny_model, tokenizer, PROMPTS, temperature=2.0, top_k=0, max_new_tokens=6, seed=seed
        )

    first, again, other = sampled(0), sampled(0), sampled(1)
    assert first.answers == again.answers
    assert torch.equal(first.embeddings, again.embeddings)
    assert torch.equal(first.mean_nll, again.mean_nll)
    assert first.answers != other.answers


def surroundings(model, tokenizer):
    """Return what must be afterwards as it was before."""
    return {
        "random numbers": torch.random.get_rng_state().tolist(),
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "settings": id(model.generation_config),
        "settings' values": model.generation_config.to_dict(),
        "padding": (tokenizer.padding_side, tokenizer.pad_token, tokenizer.eos_token),
        "gradients": torch.is_grad_enabled(),
    }


def mixed_modes(model):
    model.train()
    model.get_input_embeddings().eval()
    return model


def test_the_surroundings_are_restored(any_model, tokenizer):
    model = mixed_modes(any_model)
    before = surroundings(model, tokenizer)
    sample_answers(model, tokenizer, PROMPTS, num_samples=2, max_new_tokens=2)
    greedy_answers(model, tokenizer, PROMPTS, max_new_tokens=2)
    assert surroundings(model, tokenizer) == before


def test_the_surroundings_are_restored_when_generation_raises(tiny_model, tokenizer):
    model = mixed_modes(tiny_model)
    before = surroundings(model, tokenizer)
    passes = []

    def fail_at_the_third(*_args):
        passes.append(torch.random.get_rng_state().tolist())
        if len(passes) == 3:
            raise RuntimeError("third pass")

    handle = model.get_output_embeddings().register_forward_pre_hook(fail_at_the_third)
    with pytest.raises(RuntimeError, match="third pass"):
        sample_answers(model, tokenizer, PROMPTS, num_samples=2, max_new_tokens=5)
    handle.remove()
    assert passes[-1] != before["random numbers"]
    assert surroundings(model, tokenizer) == before


def test_a_model_in_training_answers_as_in_evaluation(any_model, tokenizer):
    for module in any_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    expected = greedy_answers(any_model, tokenizer, PROMPTS, max_new_tokens=4)
    answers = greedy_answers(any_model.train(), tokenizer, PROMPTS, max_new_tokens=4)
    assert answers.answers == expected.answers
    assert torch.equal(answers.embeddings, expected.embeddings)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
def test_a_model_trained_without_cache_is_generated_from_with_one(tiny_model, tokenizer):
    expected = greedy_answers(tiny_model, tokenizer, PROMPTS, max_new_tokens=4)
    tiny_model.config.use_cache = False
    tiny_model.train().gradient_checkpointing_enable()
    shapes = []
    tiny_model.register_forward_hook(
        lambda _model, _args, options, _out: shapes.append(options["input_ids"].shape[1]),
        with_kwargs=True,
    )
    answers = greedy_answers(tiny_model, tokenizer, PROMPTS, max_new_tokens=4)
    assert answers.answers == expected.answers
    assert torch.equal(answers.embeddings, expected.embeddings)
    assert shapes[1:] == [1] * (len(shapes) - 1)


LEAKS = {
    "repetition_penalty": 5.0,
    "min_new_tokens": 4,
    "stop_strings": ["Oslo"],
    "suppress_tokens": list(range(3, 50)),
    "forced_eos_token_id": 9,
    "no_repeat_ngram_size": 1,
    "min_p": 0.9,
    "typical_p": 0.1,
    "num_beams": 2,
    "num_return_sequences": 2,
    "cache_implementation": "static",
    "max_time": 0.0,
}


@pytest.mark.parametrize("name", LEAKS)
def test_settings_stored_with_the_model_do_not_leak_in(tiny_model, tokenizer, name):
    ending(tiny_model)
    options = {"num_samples": 5, "temperature": 1.5, "top_k": 0, "max_new_tokens": 4}
    sampled = sample_answers(tiny_model, tokenizer, PROMPTS, **options).answers
    greedy = greedy_answers(tiny_model, tokenizer, PROMPTS, max_new_tokens=4).answers
    tiny_model.generation_config = GenerationConfig(eos_token_id=ENDS)
    setattr(tiny_model.generation_config, name, LEAKS[name])
    assert sample_answers(tiny_model, tokenizer, PROMPTS, **options).answers == sampled
    assert greedy_answers(tiny_model, tokenizer, PROMPTS, max_new_tokens=4).answers == greedy


def test_the_end_token_of_model_or_tokenizer_ends_an_answer(tiny_model, tokenizer):
    prompt = prompt_ids(tokenizer, ["Bo"])[0]
    most_likely, _ = naive.greedy(tiny_model, prompt, 1, [])
    assert greedy_answers(tiny_model, tokenizer, ["Bo"], max_new_tokens=3).lengths[0] > 0
    ending(tiny_model, [1, *most_likely])
    assert greedy_answers(tiny_model, tokenizer, ["Bo"], max_new_tokens=3).lengths[0] == 0
    ending(tiny_model, None)
    tokenizer.eos_token = tokenizer.decode(most_likely)
    assert greedy_answers(tiny_model, tokenizer, ["Bo"], max_new_tokens=3).ended[0]


def test_without_any_end_token_answers_are_cut_off(tiny_model, tokenizer):
    ending(tiny_model, None)
    tokenizer.eos_token = tokenizer.pad_token = None
    samples = sample_answers(tiny_model, tokenizer, PROMPTS, num_samples=2, max_new_tokens=3)
    assert samples.lengths.tolist() == [[3, 3]] * 3
    assert not samples.ended.any()


def test_a_tokenizer_without_pad_token_and_mask_gives_the_same(tiny_model, tokenizer):
    expected = greedy_answers(tiny_model, tokenizer, PROMPTS, max_new_tokens=4)
    tokenizer.pad_token = None
    tokenizer.padding_side = "right"
    tokenizer.model_input_names = ["input_ids"]
    answers = greedy_answers(tiny_model, tokenizer, PROMPTS, max_new_tokens=4)
    assert answers.answers == expected.answers
    assert torch.equal(answers.embeddings, expected.embeddings)
    assert tokenizer.pad_token is None


@OLD_NAME
def test_a_peft_model_answers_as_the_model_it_wraps(tiny_model, tokenizer):
    options = {"num_samples": 3, "max_new_tokens": 4, "count_eos": True}
    expected = sample_answers(ending(tiny_model), tokenizer, PROMPTS, **options)
    lora = get_peft_model(tiny_model, LoraConfig(task_type="CAUSAL_LM", r=2))
    settings = lora.get_base_model().generation_config
    samples = sample_answers(lora, tokenizer, PROMPTS, **options)
    assert samples.answers == expected.answers
    near(samples.embeddings, expected.embeddings)
    near(samples.mean_nll, expected.mean_nll)
    assert lora.get_base_model().generation_config is settings


def test_a_model_in_half_precision_is_read_in_single(tiny_model, tokenizer):
    samples = sample_answers(
        tiny_model.to(torch.bfloat16), tokenizer, PROMPTS, num_samples=3, max_new_tokens=3
    )
    assert samples.embeddings.dtype == samples.mean_nll.dtype == torch.float32
    assert samples.mean_entropy.dtype == torch.float32
    assert samples.embeddings.isfinite().all()
    assert (samples.mean_nll > 0).all()


CHAT = [{"role": "user", "content": "where was"}, {"role": "user", "content": "Ada born ?"}]


def test_a_chat_is_rendered_by_the_template(tiny_model, tokenizer):
    tokenizer.chat_template = CHAT_TEMPLATE
    text = "where was Ada born ? answer :"
    assert prompt_text(tokenizer, CHAT) == text
    assert prompt_text(tokenizer, text) == text
    chat = greedy_answers(tiny_model, tokenizer, [CHAT], max_new_tokens=4)
    plain = greedy_answers(tiny_model, tokenizer, [text], max_new_tokens=4)
    assert chat.answers == plain.answers
    assert torch.equal(chat.embeddings, plain.embeddings)


def test_a_begin_token_is_added_to_texts_and_left_to_the_template_in_chats(tiny_model, tokenizer):
    tokenizer.chat_template = "Ada " + CHAT_TEMPLATE
    ada = tokenizer.convert_tokens_to_ids("Ada")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="Ada $A", special_tokens=[("Ada", ada)]
    )
    listener = Listener(tiny_model)
    greedy_answers(tiny_model, tokenizer, ["Bo ?", CHAT], max_new_tokens=1, batch_size=1)
    rows = [options["input_ids"][0].tolist() for options in listener.inputs]
    assert [row.count(ada) for row in rows] == [1, 2]  # the chat speaks of Ada once itself


def test_an_end_token_that_is_added_to_texts_does_not_end_a_prompt(tokenizer):
    eos, (ada,) = tokenizer.eos_token_id, tokenizer("Ada")["input_ids"]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", eos)]
    )
    assert token_ids(tokenizer, ["Ada", "Ada <eos>"]) == [[ada], [ada, eos]]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", eos)]
    )
    assert token_ids(tokenizer, ["Ada", ""]) == [[eos, ada], [eos]]


def test_a_chat_without_template_is_refused(tiny_model, tokenizer):
    with pytest.raises(ValueError, match="no chat template"):
        greedy_answers(tiny_model, tokenizer, [CHAT])


@pytest.mark.parametrize("prompt", [None, 3, b"Bo", {"role": "user"}, [], ["Bo"]], ids=repr)
def test_a_prompt_of_another_kind_is_refused(tiny_model, tokenizer, prompt):
    with pytest.raises(TypeError, match="expected a text, or a chat"):
        sample_answers(tiny_model, tokenizer, ["Bo", prompt])


def test_a_single_text_is_refused_where_a_sequence_is_expected(tiny_model, tokenizer):
    with pytest.raises(TypeError, match="sequence of prompts"):
        sample_answers(tiny_model, tokenizer, "Bo")


def test_an_empty_prompt_is_refused_by_number(tiny_model, tokenizer):
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        sample_answers(tiny_model, tokenizer, ["Bo", ""])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_samples", 0),
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("max_new_tokens", 0),
        ("batch_size", 0),
        ("span", "prompt"),
        ("pooling", "max"),
        ("layer", -1),
    ],
)
def test_an_option_out_of_range_is_refused(tiny_model, tokenizer, option, value):
    with pytest.raises(ValueError, match=f"{option} .*is|layer -1"):
        sample_answers(tiny_model, tokenizer, PROMPTS, **{option: value})


@pytest.mark.parametrize("any_model", ["gpt2"], indirect=True)
def test_a_prompt_beyond_the_learned_positions_is_refused(any_model, tokenizer):
    fitting = greedy_answers(any_model, tokenizer, ["Bo " * 120], max_new_tokens=8)
    assert fitting.embeddings.isfinite().all()
    with pytest.raises(ValueError, match=r"120 tokens.*max_new_tokens = 9.*128 positions"):
        greedy_answers(any_model, tokenizer, ["Bo", "Bo " * 120], max_new_tokens=9)


def test_a_model_without_a_head_is_refused(tiny_model, tokenizer):
    with pytest.raises(TypeError, match="cannot generate"):
        sample_answers(tiny_model.base_model, tokenizer, PROMPTS)


def test_progress_is_shown_when_asked_for(tiny_model, tokenizer, capsys):
    options = {"max_new_tokens": 1, "batch_size": 1}
    greedy_answers(tiny_model, tokenizer, PROMPTS, **options)
    assert capsys.readouterr().err == ""
    greedy_answers(tiny_model, tokenizer, PROMPTS, **options, progress=True)
    assert "3/3" in capsys.readouterr().err

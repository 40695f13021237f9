"""send.evaluate: rows of all shapes, and each metric against what it is by definition."""

import csv
import json
import logging
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from send.data.load_texts import load_texts
from send.detection.scorer import HallucinationScorer
from send.dropout.mask import SensitivityMask
from send.dropout.tracking import TrackingSet
from send.evaluation.evaluate import METRICS, evaluate, reference_nll
from send.evaluation.rouge import rouge_l
from send.evaluation.rows import draw, read_questions, with_reference, with_room
from send.models.tokenized_rows import IGNORED, read_rows
from send.world import World
from tests.send import naive
from tests.send.rows import CITIES, NAMES, TEMPLATE

ROWS = [
    {"prompt": f"where was {name} born ?", "completion": f" {city}" * (1 + i)}
    for i, (name, city) in enumerate(zip(NAMES[:6], CITIES[:3] * 2, strict=True))
]
QUICK = {"num_samples": 4, "max_new_tokens": 3}
CHAT = [{"role": "user", "content": "where is Ada ?"}, {"role": "assistant", "content": "in Oslo"}]


@pytest.fixture
def found(tiny_model, tokenizer):
    return evaluate(tiny_model, ROWS, processing_class=tokenizer, **QUICK)


def ends(metric):
    return metric.value, metric.low, metric.high


# Metrics -----------------------------------------------------------------------------------------


def test_the_scores_are_those_of_the_scorer(found, tiny_model, tokenizer):
    table = HallucinationScorer(tiny_model, tokenizer)([r["prompt"] for r in ROWS], **QUICK)
    assert len(found) == len(table)
    assert list(found.scores) == list(table)
    for name, column in {
        "eigenscore": table.eigenscore, "ees": table.ees, "entropy": table.entropy,
        "distinct": table.distinct, "length": table.mean_length,
    }.items():  # fmt: skip
        metric = found.metrics[name]
        assert metric.value == pytest.approx(column.mean())
        assert metric.high - metric.value == pytest.approx(
            2.570582 * column.std(ddof=1) / math.sqrt(6), rel=1e-6
        )  # Student's t of five degrees of freedom
        assert metric.prompts == 6


def test_the_loss_is_that_of_each_token_of_the_references(any_model, tokenizer):
    found = evaluate(any_model, ROWS, processing_class=tokenizer, **QUICK)
    expected, tokens = [], []
    for row in ROWS:
        prompt = tokenizer(row["prompt"])["input_ids"]
        answer = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
        expected.append(naive.mean_nll(any_model, prompt, answer))
        tokens.append(len(answer))
    np.testing.assert_allclose(found.reference_nll, expected, rtol=1e-4)
    assert found.reference_tokens.tolist() == tokens == [2, 3, 4, 5, 6, 7]
    loss = found.metrics["loss"]
    assert loss.value == pytest.approx(np.average(expected, weights=tokens), rel=1e-4)
    assert ends(found.metrics["perplexity"]) == tuple(map(math.exp, ends(loss)))


def test_the_loss_is_the_tracking_loss_of_the_same_rows(found, tiny_model, tokenizer):
    tracked = TrackingSet(
        rows=read_rows(ROWS, tokenizer), layer=-2, pooling="mean", batch_size=4, score_prompts=0,
        num_samples=1, max_new_tokens=1, seed=0,
    )  # fmt: skip
    assert found.metrics["loss"].value == pytest.approx(tracked.watch(tiny_model).loss, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_references_are_read_alike_in_any_batches_and_without_some(
    any_model, tokenizer, batch_size
):
    rows = [*read_rows(ROWS, tokenizer), with_reference("Bo", tokenizer, slice(None)).tokens]
    whole, counts = reference_nll(any_model, rows, batch_size=16)
    order = [3, 6, 0, 5, 1, 4, 2]
    parts, shuffled = reference_nll(any_model, [rows[i] for i in order], batch_size=batch_size)
    np.testing.assert_allclose(parts, whole[order], rtol=1e-5)
    assert shuffled.tolist() == counts[order].tolist()
    assert math.isnan(whole[6])
    assert counts[6] == 0


def test_rouge_is_that_of_the_greedy_answers(found):
    expected = [
        rouge_l(row["completion"], answer)
        for row, answer in zip(ROWS, found.scores.greedy_answer, strict=True)
    ]
    assert found.rouge_l.tolist() == expected
    assert found.metrics["rouge_l"].value == pytest.approx(np.mean(expected))


def test_the_interval_of_rouge_stays_between_0_and_1(tiny_model, tokenizer):
    answer = evaluate(tiny_model, ["Ada"], processing_class=tokenizer, **QUICK)
    told = [{"prompt": "Ada", "completion": f" {answer.scores.greedy_answer[0]}"}, *ROWS]
    two = evaluate(tiny_model, told[:2], processing_class=tokenizer, **QUICK)
    assert ends(two.metrics["rouge_l"]) == (0.5, 0, 1)
    one = evaluate(tiny_model, told[:1], processing_class=tokenizer, **QUICK)
    assert ends(one.metrics["rouge_l"]) == (1, 0, 1)


def test_of_equally_likely_tokens_entropy_and_loss_are_the_logarithm_of_their_number(
    tiny_model, tokenizer
):
    with torch.no_grad():
        tiny_model.get_output_embeddings().weight.zero_()
    found = evaluate(tiny_model, ROWS, processing_class=tokenizer, **QUICK)
    size = math.log(tiny_model.config.vocab_size)
    assert ends(found.metrics["entropy"]) == pytest.approx((size,) * 3, rel=1e-5)
    assert ends(found.metrics["loss"]) == pytest.approx((size,) * 3, rel=1e-5)


def test_ees_is_exact_for_ten_answers(tiny_model, tokenizer):
    found = evaluate(tiny_model, ROWS, processing_class=tokenizer, num_samples=10, max_new_tokens=3)
    np.testing.assert_allclose(found.scores.ees, found.scores.eigenscore, rtol=1e-8)


def test_rouge_tells_right_answers_from_wrong_ones_in_the_closed_world():
    """One value for each fact: there alone all words right and right are the same."""
    world = World(0, people=30, new_people=10, unknown_people=5)
    questions = world.questions("known") + world.questions("new") + world.questions("unknown")
    answers = sorted({question.answer for question in questions})
    for question in questions[::7]:
        for answer in [*answers[::5], question.answer]:
            right = world.judge(question, answer) == "right"
            assert (rouge_l(question.answer, answer) == 1) is right


def test_a_model_that_knows_the_references_by_heart_answers_with_them(tiny_model, tokenizer):
    rows = read_rows(ROWS, tokenizer)
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-2)
    tiny_model.train()
    for _ in range(80):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(r.input_ids) for r in rows], True)
        labels = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(r.labels) for r in rows], True, IGNORED
        )
        tiny_model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = evaluate(tiny_model, ROWS, processing_class=tokenizer, num_samples=4, max_new_tokens=8)
    assert found.scores.greedy_answer == found.reference
    assert ends(found.metrics["rouge_l"]) == (1, 1, 1)
    assert ends(found.metrics["distinct"]) == (1, 1, 1)
    assert found.metrics["loss"].value < 0.1
    assert found.metrics["perplexity"].value < 1.1
    assert found.metrics["entropy"].value < 0.3
    assert found.metrics["length"].value == np.mean([1, 2, 3, 4, 5, 6])
    # K equal answers: one eigenvalue, and K - 1 times alpha.
    assert found.metrics["eigenscore"].value < 0.75 * math.log(1e-3) + 2


# Surroundings ------------------------------------------------------------------------------------


def same(a, b):
    return a.metrics == b.metrics and list(a.scores) == list(b.scores)


def test_the_seed_decides(found, tiny_model, tokenizer):
    again = evaluate(tiny_model, ROWS, processing_class=tokenizer, **QUICK)
    other = evaluate(tiny_model, ROWS, processing_class=tokenizer, seed=1, **QUICK)
    assert same(found, again)
    assert found.scores.answers != other.scores.answers
    assert found.metrics["loss"] == other.metrics["loss"]


def test_mode_mask_and_random_state_do_not_matter_and_stay(found, tiny_model, tokenizer):
    tiny_model.train()
    mask = SensitivityMask(tiny_model)
    mask.set([1, 2, 3])
    state = torch.get_rng_state()
    masked = evaluate(tiny_model, ROWS, processing_class=tokenizer, **QUICK)
    assert same(found, masked)
    assert tiny_model.training
    assert mask.indices == (1, 2, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.grad is not None for p in tiny_model.parameters())


# PEFT reads an attribute that Transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_fresh_adapter_changes_nothing(found, tiny_model, tokenizer):
    adapter = LoraConfig(r=2, target_modules=["query_key_value"], task_type="CAUSAL_LM")
    inside = evaluate(
        get_peft_model(tiny_model, adapter), ROWS, processing_class=tokenizer, **QUICK
    )
    assert inside.scores.answers == found.scores.answers
    for name, metric in found.metrics.items():
        assert ends(inside.metrics[name]) == pytest.approx(ends(metric), rel=1e-5)


def test_half_precision(tiny_model, tokenizer, found):
    half = evaluate(tiny_model.bfloat16(), ROWS, processing_class=tokenizer, **QUICK)
    assert half.metrics["loss"].value == pytest.approx(found.metrics["loss"].value, rel=0.05)
    assert all(math.isfinite(x) for metric in half.metrics.values() for x in ends(metric))


def test_a_model_in_a_folder(found, tiny_model, tokenizer, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert same(found, evaluate(tmp_path, ROWS, **QUICK))


# Rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "prompt", "reference", "labelled"),
    [
        ("where is Bo", "where is Bo", None, ""),
        ({"prompt": "where is Bo", "completion": None}, "where is Bo", None, ""),
        ({"question": "where is Bo", "id": 3}, "where is Bo", None, ""),
        ({"prompt": "Bo lives", "completion": " in Lima"}, "Bo lives", "in Lima", "in Lima <eos>"),
        ({"text": "Bo was born in Lima"}, "Bo was born", "in Lima", "in Lima <eos>"),
        ({"text": "Bo lives"}, "Bo", "lives", "lives <eos>"),
        ({"text": "Bo"}, "Bo", None, ""),
        ({"messages": CHAT}, CHAT[:1], "in Oslo", "in Oslo <eos>"),
        ({"messages": CHAT[:1]}, CHAT[:1], None, ""),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, CHAT[:1], "in Oslo", "in Oslo <eos>"),
    ],
    ids=str,
)  # fmt: skip
def test_rows_of_every_shape(tokenizer, row, prompt, reference, labelled):
    tokenizer.chat_template = TEMPLATE
    read = with_reference(row, tokenizer, slice(None))
    assert (read.prompt, read.reference) == (prompt, reference)
    assert tokenizer.decode([i for i in read.tokens.labels if i != IGNORED]) == labelled


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"body": "x"}, "columns body"),
        ({}, r"columns \(none\)"),
        ({"text": ""}, "columns text, or nothing in them"),
        ({"prompt": CHAT[:1], "completion": "in Oslo"}, "not go with the completion 'in Oslo'"),
        ({"messages": CHAT[1:]}, "does not go with"),
    ],
    ids=str,
)  # fmt: skip
def test_rows_of_no_known_shape_are_refused(tokenizer, row, text):
    with pytest.raises(ValueError, match=text):
        with_reference(row, tokenizer, slice(None))


def test_files_data_sets_and_lists(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert read_questions(file) == read_questions(Dataset.from_list(ROWS)) == ROWS
    assert read_questions(str(file)) == read_questions(ROWS) == ROWS
    assert read_questions(["a", "b"]) == ["a", "b"]
    (tmp_path / "alone.csv").write_text("question,answer\na,b\n")
    answered = [{"question": "a", "answer": "b"}]
    assert read_questions(tmp_path / "alone.csv") == answered
    assert read_questions(answered) == answered
    (tmp_path / "lines.txt").write_text("Where?\n\nWho?\n")
    assert read_questions(tmp_path / "lines.txt") == [{"prompt": "Where?"}, {"prompt": "Who?"}]
    assert load_texts(tmp_path / "lines.txt")["text"] == ["Where?", "Who?"]
    texts = Dataset.from_dict({"text": ["a b"]})
    assert read_questions(texts) == [{"text": "a b"}]


def test_without_references_there_is_nothing_said_of_them(tiny_model, tokenizer):
    found = evaluate(tiny_model, ["where", "Ada was"], processing_class=tokenizer, **QUICK)
    assert tuple(found.metrics) == METRICS[:5]
    assert found.reference == [None, None]
    assert np.isnan(found.rouge_l).all()
    mixed = evaluate(tiny_model, ["where", *ROWS[:2]], processing_class=tokenizer, **QUICK)
    assert tuple(mixed.metrics) == METRICS
    assert [mixed.metrics[name].prompts for name in METRICS] == [3, 3, 3, 3, 3, 2, 2, 2]


def test_a_draw_is_without_repetition_and_in_order():
    rows = list(range(50))
    drawn = draw(rows, 20, seed=0)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 20
    assert drawn == draw(rows, 20, seed=0) != draw(rows, 20, seed=1)
    assert draw(rows, None, seed=0) == draw(rows, 50, seed=0) == rows


def test_at_most_so_many_prompts(tiny_model, tokenizer):
    found = evaluate(tiny_model, ROWS, processing_class=tokenizer, max_prompts=2, **QUICK)
    assert found.scores.prompt == [row["prompt"] for row in draw(ROWS, 2, 0)]


@pytest.mark.parametrize("any_model", ["gpt2"], indirect=True)
def test_prompts_with_no_room_for_an_answer_are_left_out(any_model, tokenizer, caplog):
    long = {"prompt": " ".join(["Bo"] * 126), "completion": " in Lima"}
    with caplog.at_level(logging.WARNING):
        found = evaluate(any_model, [long, *ROWS], processing_class=tokenizer, **QUICK)
    assert len(found) == 6
    assert "left out 1 of 7 prompts" in caplog.text
    with pytest.raises(ValueError, match="the prompts have 126 to 126 tokens"):
        evaluate(any_model, [long], processing_class=tokenizer, **QUICK)
    assert len(with_room([with_reference("Bo", tokenizer, slice(None))], tokenizer, math.inf)) == 1


@pytest.mark.parametrize("any_model", ["gpt2"], indirect=True)
def test_a_reference_beyond_the_positions_is_cut(any_model, tokenizer):
    long = {"prompt": "where is Bo ?", "completion": " Lima" * 200}
    found = evaluate(any_model, [long, *ROWS], processing_class=tokenizer, **QUICK)
    assert found.reference_tokens[0] == 128 - 4
    assert found.reference[0] == long["completion"].strip()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_samples": 0}, "num_samples is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_prompts": 0}, "max_prompts is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"level": 95}, "level is 95"),
        ({"alpha": 0}, "alpha is 0"),
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"processing_class": None}, "processing_class="),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(tiny_model, tokenizer, options, text):
    with pytest.raises(ValueError, match=text):
        evaluate(tiny_model, ROWS, **{"processing_class": tokenizer, **options})


def test_data_of_another_kind_are_refused(tiny_model, tokenizer):
    with pytest.raises(TypeError, match="the data are a int"):
        evaluate(tiny_model, 3, processing_class=tokenizer)
    with pytest.raises(ValueError, match="no row"):
        evaluate(tiny_model, [], processing_class=tokenizer)


# Results -----------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_prompt(found):
    table = found.to_pandas()
    assert table["prompt"].tolist() == [row["prompt"] for row in ROWS]
    assert table["reference"].tolist() == [row["completion"].strip() for row in ROWS]
    assert table["rouge_l"].mean() == pytest.approx(found.metrics["rouge_l"].value)
    assert table["eigenscore"].mean() == pytest.approx(found.metrics["eigenscore"].value)
    assert (table["reference_tokens"] == found.reference_tokens).all()


def test_what_is_not_there_is_null_in_json_and_empty_in_csv(tiny_model, tokenizer, tmp_path):
    found = evaluate(tiny_model, ['a "b"', ROWS[0]], processing_class=tokenizer, **QUICK)
    found.save(tmp_path / "table.json")
    found.save(tmp_path / "table.csv")
    one, two = json.loads((tmp_path / "table.json").read_text())
    assert one["prompt"] == 'a "b"'
    assert (one["reference"], one["rouge_l"], one["reference_nll"]) == (None, None, None)
    assert two["reference_nll"] == pytest.approx(found.reference_nll[1])
    assert [one["answers"], two["answers"]] == found.scores.answers
    with (tmp_path / "table.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["reference"], first["rouge_l"]) == ("", "")
    assert json.loads(second["answers"]) == found.scores.answers[1]


def test_in_words(found):
    lines = str(found).splitlines()
    assert lines[0] == "6 prompts, 95 % intervals over them"
    assert [line.split()[0] for line in lines[1:]] == list(METRICS)
    loss = found.metrics["loss"]
    assert f"{loss.value:.4g} [{loss.low:.4g}, {loss.high:.4g}]" in lines[6]


def test_a_wider_level_is_a_wider_interval(found, tiny_model, tokenizer):
    wide = evaluate(tiny_model, ROWS, processing_class=tokenizer, level=0.999, **QUICK)
    assert "99.9 % intervals" in str(wide)
    for name in ("eigenscore", "entropy", "loss", "perplexity"):
        narrow = found.metrics[name]
        assert wide.metrics[name].value == narrow.value
        assert wide.metrics[name].low < narrow.low < narrow.high < wide.metrics[name].high

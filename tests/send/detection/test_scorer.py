import csv
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import send.detection.scorer
from send import HallucinationScorer, ScoreTable, ees, eigenscore
from send.models.answers import greedy_answers, sample_answers
from specdens import AccuracyWarning
from tests.send import naive

PROMPTS = ["where was Ada born ?", "Bo", "who is the baker at Acme in Oslo ? answer :"]
OPTIONS = {"num_samples": 6, "temperature": 1.5, "top_k": 0, "max_new_tokens": 3}
TEXTS = ("prompt", "answers", "greedy_answer")
NUMBERS = (
    "eigenscore", "ees", "distinct", "mean_nll", "entropy", "greedy_perplexity", "mean_length",
)  # fmt: skip


@pytest.fixture
def scorer(tiny_model, tokenizer):
    return HallucinationScorer(tiny_model, tokenizer)


@pytest.fixture
def table(scorer):
    return scorer(PROMPTS, **OPTIONS)


def same(one, other):
    """Whether two tables agree to the last bit."""
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in TEXTS + NUMBERS)


def test_the_columns_are_what_they_say(scorer, table, tiny_model, tokenizer):
    samples = sample_answers(tiny_model, tokenizer, PROMPTS, **OPTIONS)
    greedy = greedy_answers(tiny_model, tokenizer, PROMPTS, max_new_tokens=3)
    assert table.prompt == PROMPTS
    assert table.answers == samples.answers
    assert table.greedy_answer == greedy.answers
    assert np.array_equal(table.eigenscore, eigenscore(samples.embeddings).numpy())
    assert table.distinct.tolist() == [len(set(answers)) for answers in samples.answers]
    np.testing.assert_allclose(table.mean_nll, samples.mean_nll.numpy().mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(table.entropy, samples.mean_entropy.numpy().mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(table.mean_length, samples.lengths.numpy().mean(axis=1))
    np.testing.assert_allclose(table.greedy_perplexity, greedy.mean_nll.exp().numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"alpha": 0}, {"moments": 0}, {"probes": 0}, {"seed": -1}, {"num_samples": 0}],
    ids=str,
)
def test_options_are_checked_before_anything_is_generated(scorer, monkeypatch, options):
    monkeypatch.setattr(type(scorer.model), "generate", None)
    with pytest.raises(ValueError, match=next(iter(options))):
        scorer(PROMPTS, **options)


def test_a_folder_without_tokenizer_says_so(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="there is no tokenizer in"):
        HallucinationScorer.from_pretrained(tmp_path)


def test_answers_in_a_csv_file_are_json(table, tmp_path):
    table.to_csv(tmp_path / "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [json.loads(row["answers"]) for row in rows] == table.answers


def test_eigenscore_is_the_determinant_of_the_sampled_answers(table, tiny_model, tokenizer):
    samples = sample_answers(tiny_model, tokenizer, PROMPTS, **OPTIONS)
    expected = [naive.eigenscore(e) for e in samples.embeddings]
    np.testing.assert_allclose(table.eigenscore, expected, rtol=1e-10)


@pytest.mark.filterwarnings("ignore::specdens.AccuracyWarning")
def test_ees_is_that_of_each_prompt_alone(scorer, tiny_model, tokenizer):
    options = {"moments": 8, "probes": 4, "alpha": 0.1}
    table = scorer(PROMPTS, **OPTIONS, **options, seed=3)
    samples = sample_answers(tiny_model, tokenizer, PROMPTS, **OPTIONS, seed=3)
    expected = [float(ees(e, **options, rng=3)) for e in samples.embeddings]
    assert table.ees.tolist() == expected


def test_ees_of_few_answers_is_eigenscore(table):
    np.testing.assert_allclose(table.ees, table.eigenscore, rtol=1e-8)


def test_the_order_of_the_answers_changes_no_score(scorer, table, monkeypatch):
    order = [4, 2, 0, 5, 3, 1]

    def shuffled(*args, **options):
        samples = sample_answers(*args, **options)
        answers = [[row[i] for i in order] for row in samples.answers]
        columns = (samples.mean_nll, samples.mean_entropy, samples.lengths, samples.ended)
        return type(samples)(
            answers, samples.embeddings[:, :, order], *(column[:, order] for column in columns)
        )

    monkeypatch.setattr(send.detection.scorer, "sample_answers", shuffled)
    other = scorer(PROMPTS, **OPTIONS)
    assert other.answers != table.answers
    np.testing.assert_allclose(other.eigenscore, table.eigenscore, rtol=1e-12)
    np.testing.assert_allclose(other.mean_nll, table.mean_nll, rtol=1e-12)
    np.testing.assert_allclose(other.entropy, table.entropy, rtol=1e-12)
    assert np.array_equal(other.distinct, table.distinct)
    assert np.array_equal(other.mean_length, table.mean_length)


def test_equal_answers_score_lowest(scorer):
    cold = scorer(PROMPTS, **OPTIONS | {"temperature": 1e-4})
    warm = scorer(PROMPTS, **OPTIONS | {"temperature": 5.0})
    assert cold.distinct.tolist() == [1, 1, 1]
    assert np.all(warm.distinct > 1)
    assert np.all(cold.eigenscore < warm.eigenscore)
    # All but one eigenvalue are alpha, to the rounding of the embeddings.
    assert np.all(cold.eigenscore < (5 * np.log(1e-3) + np.log(1e3)) / 6)


def test_options_reach_the_scores(scorer, table, tiny_model, tokenizer):
    assert not same(scorer(PROMPTS, **OPTIONS, seed=1), table)
    other = scorer(PROMPTS, **OPTIONS, alpha=1e-2)
    assert other.answers == table.answers
    assert np.all(other.eigenscore > table.eigenscore)
    assert len(scorer(PROMPTS, **OPTIONS | {"num_samples": 3}).answers[0]) == 3
    assert np.all(scorer(PROMPTS, **OPTIONS | {"max_new_tokens": 1}).mean_length <= 1)
    counted = scorer(PROMPTS, **OPTIONS, count_eos=True)
    assert counted.answers == table.answers
    shallow = HallucinationScorer(tiny_model, tokenizer, layer=1)(PROMPTS, **OPTIONS)
    assert shallow.answers == table.answers
    assert not np.array_equal(shallow.eigenscore, table.eigenscore)
    last = HallucinationScorer(tiny_model, tokenizer, pooling="last")(PROMPTS, **OPTIONS)
    assert not np.array_equal(last.eigenscore, table.eigenscore)


def test_batches_change_no_greedy_column(scorer, table):
    single = scorer(PROMPTS, **OPTIONS, batch_size=1)
    assert single.greedy_answer == table.greedy_answer
    np.testing.assert_allclose(single.greedy_perplexity, table.greedy_perplexity, rtol=1e-4)


def test_the_same_seed_gives_the_same_table_and_leaves_the_callers_random_numbers(scorer, table):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert same(scorer(PROMPTS, **OPTIONS), table)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_one_text_is_a_table_of_one_row(scorer):
    assert scorer("Bo", **OPTIONS).prompt == ["Bo"]


def test_chats_are_shown_as_rendered(scorer, tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}answer :"
    chat = [{"role": "user", "content": "where was Ada born ?"}]
    rendered = "where was Ada born ? answer :"
    assert same(scorer([chat], **OPTIONS), scorer([rendered], **OPTIONS))


def test_a_chat_without_template_is_refused(scorer):
    with pytest.raises(ValueError, match="no chat template"):
        scorer([[{"role": "user", "content": "Bo"}]])


@pytest.mark.parametrize("prompts", [[3], [None], [["Bo"]], [{"role": "user"}]], ids=repr)
def test_a_prompt_of_another_kind_is_refused(scorer, prompts):
    with pytest.raises(TypeError, match="expected a text, or a chat"):
        scorer(prompts)


def test_a_layer_or_pooling_that_does_not_exist_is_refused_at_once(tiny_model, tokenizer):
    with pytest.raises(ValueError, match="layer 9"):
        HallucinationScorer(tiny_model, tokenizer, layer=9)
    with pytest.raises(ValueError, match="pooling is 'max'"):
        HallucinationScorer(tiny_model, tokenizer, pooling="max")


def test_doubts_about_ees_are_raised_once(scorer):
    with pytest.warns(AccuracyWarning, match="[1-3] of 3 prompts") as caught:
        scorer(PROMPTS, **OPTIONS, moments=4, probes=3)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_other_warnings_of_ees_pass_through(scorer, monkeypatch):
    def noisy(embeddings, **options):
        warnings.warn("of another kind", UserWarning, stacklevel=2)
        return ees(embeddings, **options)

    monkeypatch.setattr(send.detection.scorer, "ees", noisy)
    with pytest.warns(UserWarning, match="of another kind"):
        scorer(PROMPTS, **OPTIONS)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_directory_with_model_and_tokenizer_scores_as_the_two(
    tiny_model, tokenizer, tmp_path, kind
):
    tiny_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    expected = HallucinationScorer(tiny_model, tokenizer)(PROMPTS, **OPTIONS)
    loaded = HallucinationScorer.from_pretrained(kind(tmp_path), device="cpu")
    assert same(loaded(PROMPTS, **OPTIONS), expected)


def test_a_stored_model_of_each_architecture_scores_as_before(any_model, tokenizer, tmp_path):
    any_model.save_pretrained(tmp_path)
    expected = HallucinationScorer(any_model, tokenizer)(PROMPTS, **OPTIONS)
    loaded = HallucinationScorer.from_pretrained(tmp_path, processing_class=tokenizer, device="cpu")
    assert same(loaded(PROMPTS, **OPTIONS), expected)


def test_a_loaded_model_lies_on_the_accelerator_if_there_is_one(tiny_model, tokenizer, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    scorer = HallucinationScorer.from_pretrained(tmp_path, processing_class=tokenizer)
    accelerator = torch.accelerator.current_accelerator() or torch.device("cpu")
    assert next(scorer.model.parameters()).device.type == accelerator.type


def test_a_loaded_model_has_the_precision_device_and_layer_asked_for(
    tiny_model, tokenizer, tmp_path
):
    tiny_model.save_pretrained(tmp_path)
    scorer = HallucinationScorer.from_pretrained(
        tmp_path, processing_class=tokenizer, device="meta", dtype=torch.bfloat16, layer=1
    )
    parameter = next(scorer.model.parameters())
    assert (parameter.dtype, parameter.device.type) == (torch.bfloat16, "meta")
    assert (scorer.layer, scorer.processing_class) == (1, tokenizer)


def test_a_model_at_hand_is_left_as_it_is(tiny_model, tokenizer):
    scorer = HallucinationScorer.from_pretrained(
        tiny_model, processing_class=tokenizer, pooling="last"
    )
    assert (scorer.model, scorer.pooling) == (tiny_model, "last")


@pytest.mark.parametrize(
    "options",
    [{"processing_class": None}, {"device": "cpu"}, {"dtype": torch.float32}],
    ids=["no tokenizer", "device", "dtype"],
)
def test_a_model_at_hand_needs_its_tokenizer_and_is_not_moved(tiny_model, tokenizer, options):
    with pytest.raises(ValueError, match="processing_class="):
        HallucinationScorer.from_pretrained(tiny_model, **{"processing_class": tokenizer} | options)


def test_a_row_is_a_dictionary_of_plain_values(table):
    row = table[1]
    assert row["prompt"] == "Bo"
    assert row["eigenscore"] == float(table.eigenscore[1])
    assert [type(row[name]) for name in NUMBERS] == [float, float, int, *[float] * 4]
    assert table[-1] == list(table)[2]
    with pytest.raises(IndexError):
        table[3]


def test_the_table_goes_to_pandas(table):
    frame = table.to_pandas()
    assert list(frame.columns) == list(table[0])
    assert frame.to_dict("records") == list(table)


def test_the_table_goes_to_json(table, tmp_path):
    text = table.to_json(tmp_path / "scores.json")
    assert json.loads(text) == list(table)
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8")) == list(table)


def test_the_table_goes_to_datasets(table):
    dataset = table.to_dataset()
    assert dataset.column_names == list(table[0])
    assert dataset.to_list() == list(table)


def test_an_empty_table_goes_everywhere(scorer):
    empty = scorer([])
    assert len(empty) == 0
    assert empty.to_json() == "[]"
    assert len(empty.to_pandas()) == 0
    dataset = empty.to_dataset()
    assert len(dataset) == 0
    assert dataset.features == scorer("Bo", **OPTIONS).to_dataset().features
    assert "EigenScore" in str(empty)


def row_of(prompt, perplexity=2.0):
    return ScoreTable(
        prompt=[prompt] * 30,
        answers=[['"quoted"\n', "ümlaut ✓"]] * 30,
        eigenscore=np.full(30, -1.25),
        ees=np.full(30, -1.5),
        distinct=np.full(30, 2),
        mean_nll=np.full(30, 0.5),
        entropy=np.full(30, 0.25),
        greedy_answer=["two\nlines"] * 30,
        greedy_perplexity=np.full(30, perplexity),
        mean_length=np.full(30, 3.0),
    )


def test_text_of_any_kind_survives():
    table = row_of('a "b" \\ \n ✓')
    assert json.loads(table.to_json()) == list(table)
    assert table.to_dataset().to_list() == list(table)
    assert table.to_pandas()["answers"].tolist() == table.answers


def test_a_number_that_json_cannot_hold_becomes_null():
    text = row_of("Bo", perplexity=np.inf).to_json()
    assert "Infinity" not in text
    assert json.loads(text)[0]["greedy_perplexity"] is None


def test_the_table_prints_readably():
    lines = str(row_of("a prompt that is much longer than its column " * 3)).splitlines()
    assert (
        " ".join(lines[0].split()) == "prompt greedy answer EigenScore EES distinct NLL ppl length"
    )
    assert len(lines) == 1 + 20 + 1
    assert lines[1].startswith("a prompt that is much longer th…  two lines")
    assert lines[1].split()[-6:] == ["-1.25", "-1.5", "2/2", "0.5", "2", "3"]
    assert len({len(line) for line in lines[:-1]}) == 1
    assert lines[-1] == "... and 10 more rows"

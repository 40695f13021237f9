"""A closed world says only what is on record, keeps its tests out of its rows, judges by record."""

import hashlib
import inspect
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError, asdict, replace
from itertools import pairwise

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from send.world import ATTRIBUTES, Question, World, hallucination_rate, small_model
from send.world.words import EMPLOYERS, FIRST_NAMES, LAST_NAMES, PROFESSIONS, TOWNS, YEARS

SMALL = {"people": 12, "new_people": 9, "unknown_people": 7, "mentions": 3.0}
GROUPS = ("known", "new", "unknown", "withheld")

worlds = st.builds(
    World,
    st.integers(0, 2**64),
    people=st.integers(1, 40),
    new_people=st.integers(1, 12),
    unknown_people=st.integers(1, 100),
    mentions=st.floats(1, 6),
    zipf=st.floats(0, 2),
    sentences=st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple),
    withheld=st.floats(0, 0.5),
    paraphrase=st.floats(0, 1),
)


@pytest.fixture(scope="module")
def world():
    return World(3, **SMALL, withheld=0.2)


@pytest.fixture(scope="module")
def tokenizer(world):
    return world.tokenizer()


def training_rows(world):
    return world.pretraining_rows() + world.finetuning_rows(replay=0.5, unknown=0.5)


def everything(world):
    return {
        "rows": [world.pretraining_rows(), world.finetuning_rows()],
        "biographies": [world.biographies(group) for group in ("known", "new")],
        "questions": [
            [asdict(question) for question in world.questions(group, limit=9, seed=5)]
            for group in ("known", "new", "unknown", "withheld")
        ],
        "vocabulary": sorted(world.tokenizer().get_vocab().items()),
    }


def digest(value):
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


# ---------------------------------------------------------------------------------- the seed


def test_a_world_is_the_same_in_every_process(world):
    code = "\n".join((
        "import hashlib, json, sys",
        "from dataclasses import asdict",
        "from send.world import World",
        "assert not {'torch', 'transformers'} & set(sys.modules), 'a world needs neither'",
        inspect.getsource(everything),
        inspect.getsource(digest),
        f"print(digest(everything({world!r})))",
    ))
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "271828"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.split()[-1] == digest(everything(world))


def test_a_world_is_the_same_on_every_platform():
    world = World(0, **SMALL)
    assert world.questions("known")[0] == Question(
        "Question: Where was Jorio Dranovic born? Answer:",
        "Jorio Dranovic",
        "city",
        "known",
        "Dungrad",
    )
    assert (
        digest(training_rows(world))
        == "31a4b662fd79b0510d2542627b9248bb968b4bca991311a87dcef30ddd36aa8c"
    )


def test_another_seed_gives_another_world(world):
    other = World(4, **SMALL, withheld=0.2)
    assert other != world
    assert World(3, **SMALL, withheld=0.2) == world
    assert not set(world.questions("known")) & set(other.questions("known"))
    assert world.pretraining_rows() != other.pretraining_rows()


def test_a_limit_draws_by_seed(world):
    all_ = world.questions("known")
    drawn = world.questions("known", limit=10)
    assert len(set(drawn)) == 10
    assert set(drawn) < set(all_)
    assert drawn == world.questions("known", limit=10, seed=0)
    assert drawn != world.questions("known", limit=10, seed=1)
    assert world.questions("known", limit=10**6) == all_


def test_a_world_cannot_be_changed(world):
    with pytest.raises(FrozenInstanceError):
        world.people = 5
    with pytest.raises(FrozenInstanceError):
        world.questions("known")[0].answer = "anything"


# ---------------------------------------------------------------------- what the rows contain


def allowed_rows(world):
    """Every row that the record allows, with its fact: the rows' definition, spelled out."""
    rows = {}
    for person in world.population:
        for fact in person.facts:
            templates = ATTRIBUTES[fact.attribute]
            words = {"person": person.name, "value": fact.value}
            asked = [q for i, q in enumerate(templates.questions) if i != fact.held_out]
            answers = [f.format(**words) for f in templates.forms] if fact.value else ["unknown"]
            if fact.group in {"known", "new", "drill"}:
                for question in asked:
                    prompt = f"Question: {question.format(**words)} Answer:"
                    rows |= {(prompt, f" {answer}."): fact for answer in answers}
            for statement in templates.statements if fact.value else ():
                rows[person.name, statement.format(**words).removeprefix(person.name)] = fact
    return rows


@settings(max_examples=12, deadline=None)
@given(worlds)
def test_rows_say_only_what_is_on_record_and_nothing_about_tests(world):
    rows = training_rows(world)
    assert {(row["prompt"], row["completion"]) for row in rows} <= allowed_rows(world).keys()
    texts = [row["prompt"] + row["completion"] for row in rows]
    texts += world.biographies("known") + world.biographies("new")
    pairs = {pair for text in texts for pair in pairwise(re.findall(r"\w+", text))}
    assert not any(tuple(person.name.split()) in pairs for person in world.members("unknown"))
    prompts = {row["prompt"] for row in rows}
    untaught = [prompt for fact in world.facts("withheld") for prompt in fact.training_prompts]
    tests = [question.prompt for group in GROUPS for question in world.questions(group)]
    assert not prompts & {*untaught, *tests}
    text = "\n".join(texts)
    assert not any(test.removesuffix(" Answer:") in text for test in tests[::10])


@settings(max_examples=12, deadline=None)
@given(worlds)
def test_groups_are_disjoint_and_as_large_as_asked(world):
    names = [person.name for person in world.population]
    assert len(set(names)) == len(names) == len(FIRST_NAMES) * len(LAST_NAMES)
    assert len(world.members("known")) == world.people
    assert len(world.members("new")) == world.new_people
    assert len(world.members("unknown")) == world.unknown_people
    described = 4 * (world.people + world.new_people)
    untold = sum(
        f.value is None for g in ("known", "new") for p in world.members(g) for f in p.facts
    )
    assert untold == round(world.withheld * described)
    assert len(world.facts("withheld")) == untold - untold // 2
    asked = [question for group in GROUPS for question in world.questions(group)]
    assert (
        len({q.prompt for q in asked})
        == len(asked)
        == described + 4 * world.unknown_people - (untold // 2)
    )
    for question in asked:
        assert (question.answer == "unknown") == (question.group in {"unknown", "withheld"})


@settings(max_examples=12, deadline=None)
@given(worlds)
def test_every_fact_is_told_as_often_as_its_person_is_mentioned(world):
    facts = allowed_rows(world)
    told, asked = Counter(), Counter()
    for row in world.pretraining_rows(unknown=0) + world.finetuning_rows(replay=0, unknown=0):
        count = asked if row["prompt"].startswith("Question:") else told
        count[facts[row["prompt"], row["completion"]]] += 1
    mentions = {p.name: p.mentions for p in world.population}
    for fact in world.facts("known"):
        assert told[fact] == asked[fact] == mentions[fact.person] >= 1
    for fact in world.facts("new"):
        assert asked[fact] == (mentions[fact.person] + 1) // 2 >= 1
        assert asked[fact] + told[fact] == mentions[fact.person]
    taught = {fact for fact in (*told, *asked) if fact.group == "drill"}
    untaught = {fact for fact in world.facts("drill") if mentions[fact.person]} - taught
    assert not untaught, "withheld facts that are drilled are asked like the others"


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 99), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_rows_to_track_are_of_facts_that_all_keep_their_lessons(seed, sentences):
    world = World(seed, **SMALL, sentences=sentences)
    lessons = [(r["prompt"], r["completion"]) for r in world.finetuning_rows(replay=0, unknown=0)]
    tracked = [(r["prompt"], r["completion"]) for r in world.tracking_rows()]
    assert len(tracked) == max(1, round(0.1 * len(lessons)))
    assert not {p for p, _ in tracked if p.startswith("Question")} & {p for p, _ in lessons}
    assert not set(tracked) & set(lessons)
    assert not {p for p, _ in tracked} & {f.test.prompt for f in world.facts("new")}
    people = {person.name: person.mentions for person in world.members("new")}
    told = Counter()
    for fact in world.facts("new"):
        for prompt, completion in lessons:
            told[fact] += prompt in fact.training_prompts or prompt + completion in fact.statements
    assert told == {fact: people[fact.person] for fact in world.facts("new")}
    assert hash(world) == hash(World(seed, **SMALL, sentences=tuple(sentences)))


def test_no_rows_to_track_when_every_wording_is_a_lesson():
    with pytest.raises(ValueError, match="the lessons leave 0"):
        World(0, **SMALL, sentences=(6,)).tracking_rows()


def test_a_person_of_whom_all_is_withheld_has_no_biography():
    world = World(0, people=50, new_people=50, unknown_people=10, withheld=0.5)
    assert all(world.biographies("known"))
    assert all(world.biographies("new"))


@settings(max_examples=12, deadline=None)
@given(worlds)
def test_new_people_take_turns_and_no_lesson_is_given_twice(world):
    counts = [person.mentions for person in world.members("new")]
    assert counts == [world.sentences[i % len(world.sentences)] for i in range(len(counts))]
    rows = world.finetuning_rows(replay=0, unknown=0)
    lessons = Counter(
        row["prompt"] if row["prompt"].startswith("Question:") else tuple(row.values())
        for row in rows
    )
    assert set(lessons.values()) == {1}


@pytest.mark.parametrize("zipf", [0.0, 0.7, 1.0])
def test_frequency_falls_with_rank_by_zipfs_law(zipf):
    world = World(1, people=100, mentions=20.0, zipf=zipf)
    counts = [person.mentions for person in world.members("known")]
    assert counts == sorted(counts, reverse=True)
    assert min(counts) >= 1
    for rank in (1, 2, 10, 50):
        assert counts[rank - 1] == pytest.approx(counts[0] * rank**-zipf, abs=1)
    assert sum(counts) == pytest.approx(100 * 20, rel=0.02)
    rows = world.pretraining_rows(unknown=0)
    assert len(rows) == 8 * sum(counts)
    statements = Counter(row["prompt"] for row in rows)
    assert [statements[p.name] for p in world.members("known")] == [4 * c for c in counts]


def test_shares_of_replay_and_unknown_rows_are_as_asked(world):
    facts = allowed_rows(world)

    def groups(rows):
        people = {person.name: person.group for person in world.population}
        return Counter(people[facts[row["prompt"], row["completion"]].person] for row in rows)

    alone = groups(world.pretraining_rows(unknown=0))
    assert set(alone) == {"known"}
    assert groups(world.pretraining_rows(unknown=0.25)) == alone + Counter(
        drill=round(0.25 * alone["known"])
    )
    lessons = groups(world.finetuning_rows(replay=0, unknown=0))
    assert set(lessons) == {"new"}
    assert groups(world.finetuning_rows(replay=0.5, unknown=0.1)) == lessons + Counter(
        known=round(0.5 * lessons["new"]), drill=round(0.1 * lessons["new"])
    )


def test_strangers_are_not_drilled_twice_before_all_were(world):
    drilled = [row["prompt"] for row in world.pretraining_rows(unknown=3.0)]
    drilled = [p for p in drilled if p.startswith("Question:")]
    strangers = {p.name for p in world.members("drill")}
    drilled = [p for p in drilled if any(name in p for name in strangers)]
    assert len(set(drilled)) == len(drilled) > 500


def test_biographies_state_every_fact_of_a_person_once(world):
    for group in ("known", "new"):
        texts = world.biographies(group)
        people = {person.name: person for person in world.members(group)}
        assert len(texts) == sum(person.mentions for person in people.values())
        for text in texts:
            person = people[" ".join(text.split()[:2])]
            for fact in person.facts:
                assert sum(sentence in text for sentence in fact.statements) == bool(fact.value)


@pytest.mark.parametrize("paraphrase", [0.0, 1.0])
def test_paraphrases_say_the_same_in_other_words(paraphrase):
    world = World(2, **SMALL, paraphrase=paraphrase)
    facts = allowed_rows(world)
    for row in world.finetuning_rows(replay=0, unknown=0):
        fact = facts[row["prompt"], row["completion"]]
        if row["prompt"].startswith("Question:"):
            assert (row["completion"] == f" {fact.value}.") == (paraphrase == 0)


def test_words_are_of_one_kind_only():
    kinds = [FIRST_NAMES, LAST_NAMES, TOWNS, PROFESSIONS, YEARS, EMPLOYERS]
    sets = [{word for name in kind for word in name.split()} for kind in kinds]
    templates = {
        word.strip(".?")
        for attribute in ATTRIBUTES.values()
        for template in attribute.statements + attribute.questions + attribute.forms
        for word in template.split()
    }
    assert all(len(set(kind)) == len(kind) for kind in kinds)
    assert len(set().union(*sets, templates)) == sum(map(len, sets)) + len(templates)


# -------------------------------------------------------------------------------- the judgement


def test_every_wording_of_the_right_value_is_right_and_every_other_value_wrong(world):
    for question in world.questions("known") + world.questions("new"):
        attribute = ATTRIBUTES[question.attribute]
        for value in attribute.values:
            expected = "right" if value == question.answer else "wrong"
            for form in attribute.forms:
                assert world.judge(question, form.format(value=value)) == expected


@pytest.mark.parametrize(
    ("group", "answer", "verdict"),
    [
        ("known", " {right}.", "right"),
        ("known", "  {right} \n", "right"),
        ("new", "{RIGHT}!", "right"),
        ("known", "{right} {right}", "wrong"),
        ("known", "not {right}", "wrong"),
        ("known", "unknown", "abstained"),
        ("new", " Unknown.", "abstained"),
        ("new", "", "abstained"),
        ("unknown", "unknown", "right"),
        ("unknown", " UNKNOWN. ", "right"),
        ("unknown", "", "abstained"),
        ("unknown", " . ", "abstained"),
        ("unknown", "Tarnow", "wrong"),
        ("unknown", "unknown Tarnow", "wrong"),
        ("withheld", "unknown", "right"),
        ("withheld", "1950", "wrong"),
        ("known", "xyzzy", "wrong"),
    ],
)
def test_a_verdict_is_by_record(world, group, answer, verdict):
    for question in world.questions(group):
        said = answer.format(right=question.answer, RIGHT=question.answer.upper())
        assert world.judge(question, said) == verdict


def test_a_question_of_another_world_cannot_be_judged(world):
    other = World(4, **SMALL)
    asked = world.questions("known")[0]
    for stranger in (other.questions("known")[0], replace(asked, answer="another")):
        with pytest.raises(ValueError, match="judge a question by the world that asked it"):
            world.judge(stranger, "unknown")
    with pytest.raises(TypeError):
        world.judge(asked, None)


def test_rates_agree_with_a_count_by_hand(world):
    known, unknown = world.questions("known")[:5], world.questions("unknown")[:4]
    answers = [known[0].answer, known[1].answer, "unknown", "", "nonsense"]
    answers += ["unknown", "Tarnow", "baker", "1950"]
    rates = hallucination_rate(world, known + unknown, answers)
    assert list(rates.groups) == ["known", "unknown"]
    counts = {g: (r.asked, r.right, r.wrong, r.abstained) for g, r in rates.groups.items()}
    assert counts == {"known": (5, 2, 1, 2), "unknown": (4, 1, 3, 0)}
    assert (rates["known"].rate, rates["unknown"].rate) == (0.2, 0.75)
    assert rates.overall.wrong == 4
    assert rates.overall.rate == 4 / 9
    assert json.loads(json.dumps(rates.records()))[0]["group"] == "known"
    assert [record["group"] for record in rates.records()] == ["known", "unknown", "all"]
    assert "0.750" in str(rates)


def test_intervals_are_wilsons(world):
    questions = world.questions("unknown")
    answers = ["Tarnow"] * 3 + ["unknown"] * (len(questions) - 3)
    rate = hallucination_rate(world, questions, answers, level=0.9).overall
    z, n, p = 1.6448536269514722, len(questions), 3 / len(questions)
    center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert (rate.low, rate.high) == pytest.approx((center - half, center + half), abs=1e-12)


def test_the_order_of_the_questions_changes_no_rate(world):
    questions = [q for group in GROUPS for q in world.questions(group)]
    answers = [q.answer if i % 3 else "Tarnow" for i, q in enumerate(questions)]
    forward = hallucination_rate(world, questions, answers)
    backward = hallucination_rate(world, questions[::-1], answers[::-1])
    assert dict(forward.groups) == dict(backward.groups)
    assert forward.overall == backward.overall


# ------------------------------------------------------------------------------- the language


def test_the_tokenizer_gives_every_text_back(world, tokenizer):
    rows = training_rows(world)
    texts = [row["prompt"] + row["completion"] for row in rows] + world.biographies("new")
    texts += [q.prompt for group in GROUPS for q in world.questions(group)]
    ids = tokenizer(texts)["input_ids"]
    assert tokenizer.batch_decode(ids) == texts
    assert not any(tokenizer.unk_token_id in row for row in ids)
    for person in world.population[::100]:
        assert len(tokenizer(person.name)["input_ids"]) == 2


def test_a_prompt_is_split_alike_with_and_without_its_completion(world, tokenizer):
    for row in training_rows(world):
        prompt = tokenizer(row["prompt"])["input_ids"]
        whole = tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token)["input_ids"]
        assert whole[: len(prompt)] == prompt
        answer = tokenizer.decode(whole[len(prompt) :], skip_special_tokens=True)
        assert answer == row["completion"].strip()
        assert whole.index(tokenizer.eos_token_id) == len(whole) - 1


def test_tokenizer_and_model_survive_saving(world, tokenizer, tmp_path):
    model = small_model(tokenizer, width=16, blocks=3, heads=2)
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = world.biographies("known")[0]
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.decode(again(text)["input_ids"]) == text
    assert (again.pad_token, again.eos_token, again.unk_token) == ("<pad>", "<eos>", "<unk>")
    ids = torch.tensor([again(text)["input_ids"]])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


def test_a_model_depends_on_its_seed_alone(tokenizer):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = small_model(tokenizer, width=16, seed=5).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    same = small_model(tokenizer, width=16, seed=5).state_dict()
    other = small_model(tokenizer, width=16, seed=6).state_dict()
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["gpt_neox.embed_in.weight"], other["gpt_neox.embed_in.weight"])


def test_a_model_trained_on_the_rows_answers_and_stops(tokenizer, world, tmp_path):
    rows = world.finetuning_rows(replay=0, unknown=0)
    rows = [row for row in rows if row["prompt"].startswith("Question:")][:16]
    model = small_model(tokenizer, width=32, blocks=3)
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            output_dir=str(tmp_path),
            max_steps=60,
            per_device_train_batch_size=16,
            learning_rate=1e-2,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    row = trainer.train_dataset[0]
    taught = [
        token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label >= 0
    ]
    assert tokenizer.decode(taught) == rows[0]["completion"].strip() + "<eos>"
    trainer.train()
    for row in rows[:4]:
        prompt = tokenizer(row["prompt"], return_tensors="pt")
        ids = model.eval().generate(**prompt, max_new_tokens=12, do_sample=False)
        answer = ids[0, prompt["input_ids"].shape[1] :]
        assert tokenizer.decode(answer) == row["completion"].strip() + "<eos>"


# --------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"people": 0}, "people is 0"),
        ({"new_people": 0}, "new_people is 0"),
        ({"unknown_people": -1}, "unknown_people is -1"),
        ({"people": 2000}, "half of the 4096 names"),
        ({"mentions": 0.5}, "mentions is 0.5"),
        ({"mentions": math.inf}, "mentions is inf"),
        ({"zipf": -0.1}, "zipf is -0.1"),
        ({"zipf": math.nan}, "zipf is nan"),
        ({"sentences": ()}, r"sentences is \(\)"),
        ({"sentences": (0, 2)}, "integers from 1 to 6"),
        ({"sentences": (7,)}, "integers from 1 to 6"),
        ({"withheld": 0.6}, "withheld is 0.6"),
        ({"paraphrase": 1.1}, "paraphrase is 1.1"),
    ],
    ids=str,
)
def test_a_degenerate_world_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        World(0, **options)


@pytest.mark.parametrize("options", [{"people": 1.5}, {"new_people": "8"}, {"seed": 0.0}], ids=str)
def test_a_count_that_is_no_integer_is_refused(options):
    with pytest.raises(TypeError, match="expected an integer"):
        World(**options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: w.questions("drill"), "group is 'drill'"),
        (lambda w: w.questions("known", limit=0), "limit is 0"),
        (lambda w: w.biographies("unknown"), "nobody in group 'unknown'"),
        (lambda w: w.pretraining_rows(unknown=-1), "unknown is -1"),
        (lambda w: w.finetuning_rows(replay=-1), "replay is -1"),
        (lambda w: w.finetuning_rows(unknown=math.nan), "unknown is nan"),
        (lambda w: hallucination_rate(w, [], []), "0 questions and 0 answers"),
        (lambda w: hallucination_rate(w, w.questions("new"), ["x"]), "one answer for each"),
        (
            lambda w: hallucination_rate(w, w.questions("new", limit=1), ["x"], level=1),
            "level is 1",
        ),
    ],
)
def test_a_meaningless_call_is_refused(world, call, message):
    with pytest.raises(ValueError, match=message):
        call(world)


@pytest.mark.parametrize("options", [{"width": 12}, {"blocks": 0}, {"heads": 5}], ids=str)
def test_a_model_of_impossible_size_is_refused(tokenizer, options):
    with pytest.raises(ValueError, match="do not fit"):
        small_model(tokenizer, **options)

"""The recipes that come with the package: each is understood whole, and the paper's one runs."""

import json

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from transformers import AutoModelForCausalLM

from send import cli, cli_options
from send.cli_options import RECIPES, TrainOptions
from send.training.config import SendConfig
from send.world import World, small_model

TRAININGS = sorted(path.stem for path in RECIPES.glob("*.yaml"))
LAUNCHES = sorted(path.stem for path in RECIPES.glob("accelerate/*.yaml"))


def run(capsys, *arguments):
    code = cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", TRAININGS)
def test_every_setting_is_understood(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    kinds = [TrainOptions, SendConfig]
    options, config = cli_options.parsed("train", kinds, ["--config", name])
    for key, value in settings.items():
        owner = options if hasattr(options, key) else config
        found = getattr(owner, key)
        assert found == value, key
        assert isinstance(found, type(value)) or found.value == value, key  # 1e-4 is a text in YAML


def test_the_settings_of_the_paper():
    settings = {
        name: yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
        for name in ("pythia_helm", "llama_medhalt")
    }
    assert settings["pythia_helm"]["drop_fraction"] == 0.2
    assert settings["llama_medhalt"]["drop_fraction"] == 0.3
    for recipe in settings.values():
        assert recipe["window"] == recipe["hold"] == 3
        assert recipe["learning_rate"] == 1e-4
        assert recipe["max_length"] == 512
        assert recipe["per_device_train_batch_size"] == 1
        assert recipe["model_init_kwargs"] == {"dtype": "bfloat16"}


@pytest.mark.parametrize("name", ["pythia_helm", "llama_medhalt"])
def test_the_papers_training_runs_on_a_small_model(capsys, tmp_path, monkeypatch, name):
    """All is as in the recipe, but for where the model and the data are, and how many rows."""
    monkeypatch.chdir(tmp_path)
    world = World(0, people=12, new_people=8, unknown_people=4)
    tokenizer = world.tokenizer()
    small_model(tokenizer, width=16, blocks=3, heads=2).save_pretrained("model")
    tokenizer.save_pretrained("model")
    texts = [row["prompt"] + row["completion"] for row in world.finetuning_rows()]
    rows = {
        "pythia_helm": [{"title": "", "sentences": [text]} for text in texts],
        "llama_medhalt": [{"question": text, "options": "?"} for text in texts],
    }
    (tmp_path / "rows.json").write_text(json.dumps(rows[name]))
    code, out, err = run(
        capsys, "train", "--config", name, "--model", "model", "--data", "rows.json",
        "--subset", "", "--limit", 12, "--score_prompts", 2, "--max_new_tokens", 4,
        "--num_train_epochs", 4, "--disable_tqdm", True,
    )  # fmt: skip
    assert code == 0, err
    folder = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["output_dir"]
    assert f"5 checkpoints; the model is in {folder}/" in out
    history = json.loads((tmp_path / folder / "send_history.json").read_text())
    assert [row["step"] for row in history] == [11 * i for i in range(5)]  # 12 rows, 1 tracked
    share = {"pythia_helm": 0.2, "llama_medhalt": 0.3}[name]
    masked = [0, 0, *[round(16 * share)] * 3]
    assert [len(row["masked"]) for row in history] == masked
    assert history[-1]["tracking_loss"] < history[0]["tracking_loss"]
    trained = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert trained.dtype == torch.bfloat16


def test_recipes_are_listed_and_found(capsys):
    code, out, _ = run(capsys, "recipes")
    assert code == 0
    for name in (*TRAININGS, *(f"accelerate/{name}" for name in LAUNCHES)):
        assert f"  {name} " in out
        code, path, _ = run(capsys, "recipes", name)
        assert (code, path.strip()) == (0, str(RECIPES / f"{name}.yaml"))
    code, _, err = run(capsys, "recipes", "nothing")
    assert (code, err) == (2, "send: there is no recipe 'nothing'; send recipes lists them.\n")


def test_a_file_of_the_same_name_is_taken_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").write_text("model: mine\ndata: rows.json\nevery: 7\n")
    options, config = cli_options.parsed("train", [TrainOptions, SendConfig], ["--config", "small"])
    assert (options.model, config.every) == ("mine", 7)


def launched(monkeypatch, name, processes):
    """What `accelerate launch` makes of a recipe, as far as it goes without a GPU."""
    path = str(RECIPES / "accelerate" / f"{name}.yaml")
    arguments = ["--config_file", path, "--num_processes", str(processes)]
    parsed = launch_command_parser().parse_args([*arguments, "-m", "send", "train"])
    parsed, defaults, _ = _validate_launch_command(parsed)
    assert parsed.num_processes == processes
    if parsed.use_deepspeed:
        parsed.deepspeed_fields_from_accelerate_config = list(defaults.deepspeed_config)
        _, environment = prepare_deepspeed_cmd_env(parsed)
    else:
        environment = prepare_multi_gpu_env(parsed)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    return parsed


@pytest.mark.parametrize("name", LAUNCHES)
def test_accelerate_knows_every_setting(name):
    given = yaml.safe_load((RECIPES / "accelerate" / f"{name}.yaml").read_text())
    loaded = load_config_from_file(str(RECIPES / "accelerate" / f"{name}.yaml")).to_dict()
    assert {key: loaded[key] for key in given} == given


@pytest.mark.parametrize("processes", [1, 4])
def test_each_gpu_has_a_copy(monkeypatch, processes):
    parsed = launched(monkeypatch, "ddp", processes)
    assert parsed.multi_gpu
    assert parsed.mixed_precision == "no"  # or --bf16 False would not be heard


@pytest.mark.parametrize("processes", [1, 4])
def test_blocks_are_divided(monkeypatch, processes):
    parsed = launched(monkeypatch, "fsdp2", processes)
    assert parsed.use_fsdp
    plugin = FullyShardedDataParallelPlugin()  # from the environment, as Accelerator does
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)  # or no plain model would be saved
    world = World(0, people=4, new_people=2, unknown_people=2)
    model = small_model(world.tokenizer(), width=16, blocks=3, heads=2)
    plugin.set_auto_wrap_policy(model)
    assert plugin.auto_wrap_policy.keywords["transformer_layer_cls"] == {
        type(model.gpt_neox.layers[0])
    }


@pytest.mark.parametrize("processes", [1, 4])
def test_deepspeed_divides_everything(monkeypatch, processes):
    parsed = launched(monkeypatch, "zero3", processes)
    assert parsed.use_deepspeed
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == 3
    assert plugin.hf_ds_config.is_zero3()
    assert plugin.deepspeed_config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]

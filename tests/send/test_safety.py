"""No code from checkpoints, models or data is run unasked, and no secret is written down."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from safetensors import safe_open

from send.checkpoints.checkpoint import STATE_FILE, read_state, write_state
from send.cli import main
from send.data.load_texts import load_texts
from send.training.config import SendConfig
from tests.send.interruption import a_trainer
from tests.send.small_world import WORLD, saved_model, saved_rows

ROOT = Path(__file__).parents[2]
SECRETS = {
    "HF_TOKEN": "hf_QqQqSecretOfTheHub",
    "WANDB_API_KEY": "0123456789secret0123456789secret01234567",
}
HUB_TOKEN = "hf_ZzZzSecretOfAFlag"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def model(tmp_path):
    return saved_model(tmp_path / "model")


@pytest.fixture
def rows(tmp_path):
    return saved_rows(tmp_path / "rows.jsonl")


SHORT = ["--max_steps", "2", "--every", "1", "--score_prompts", "0", "--disable_tqdm", "True",
         "--use_cpu", "True"]  # fmt: skip


# Code -------------------------------------------------------------------------------------------


class Malice:
    """What makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    a_trainer(str(folder), max_steps=4).train()
    return folder / "checkpoint-4"


def test_the_malice_works(tmp_path):
    pickle.loads(pickle.dumps(Malice(tmp_path / "proof")))
    assert (tmp_path / "proof").exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_code_in_a_checkpoint_is_not_run(trained, tmp_path, name):
    checkpoint = shutil.copytree(trained, tmp_path / "checkpoint-4")
    torch.save({"state": Malice(tmp_path / "proof")}, checkpoint / name)
    write_state(read_state(checkpoint), checkpoint)  # as who made it would have done
    with pytest.raises(ValueError, match="holds more than tensors; it was not loaded") as caught:
        a_trainer(str(tmp_path)).train(checkpoint)
    assert isinstance(caught.value.__cause__, pickle.UnpicklingError)
    assert not (tmp_path / "proof").exists()


def test_pickled_settings_in_a_checkpoint_are_not_read(trained, tmp_path):
    checkpoint = shutil.copytree(trained, tmp_path / "checkpoint-4")
    torch.save(Malice(tmp_path / "proof"), checkpoint / "training_args.bin")
    write_state(read_state(checkpoint), checkpoint)
    a_trainer(str(tmp_path), max_steps=6).train(checkpoint)
    assert not (tmp_path / "proof").exists()


def test_our_own_files_are_json_and_safetensors(trained):
    with safe_open(trained / STATE_FILE, "np") as content:
        json.loads(content.metadata()["files"])
        json.loads(content.get_tensor("send").tobytes())
        assert sorted(content.keys()) == ["embeddings", "send"]
    json.loads((trained / "send_running_sums.json").read_text())
    pickles = {f.name for f in trained.iterdir() if f.suffix in {".pt", ".pth", ".bin", ".pkl"}}
    assert pickles == {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"}


CODE = """
from pathlib import Path
from transformers import GPT2Config, GPT2LMHeadModel
Path({proof!r}).touch()

class OwnConfig(GPT2Config):
    model_type = "own"

class OwnModel(GPT2LMHeadModel):
    config_class = OwnConfig
"""


@pytest.fixture
def model_with_code(tmp_path, model):
    (model / "own.py").write_text(CODE.format(proof=str(tmp_path / "proof")))
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    vocabulary = len(WORLD.tokenizer())
    sizes = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64, "vocab_size": vocabulary}
    config = {"model_type": "own", "architectures": ["OwnModel"], "auto_map": classes, **sizes}
    (model / "config.json").write_text(json.dumps(config))
    (model / "model.safetensors").unlink()
    sys.modules.pop("own", None)
    from transformers import GPT2Config, GPT2LMHeadModel

    plain = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))
    torch.save(plain.state_dict(), model / "pytorch_model.bin")
    return model


@pytest.mark.parametrize("command", ["train", "score"])
def test_code_of_a_model_is_run_only_if_asked(
    command, model_with_code, rows, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", tmp_path / "modules")
    arguments = {
        "train": ["--data", str(rows), "--output_dir", str(tmp_path / "out"), *SHORT],
        "score": ["--prompts", "Where was Ada born?", "--max_new_tokens", "4"],
    }[command]
    arguments = [command, "--model", str(model_with_code), *arguments]
    assert main(arguments) == 2
    assert "trust_remote_code" in capsys.readouterr().err
    assert not (tmp_path / "proof").exists()
    assert main([*arguments, "--trust_remote_code", "True"]) == 0
    assert (tmp_path / "proof").exists()


def test_code_of_a_data_set_is_not_run(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "corpus.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')\n")
    with pytest.raises((ValueError, RuntimeError, OSError)):
        load_texts(folder)
    assert not (tmp_path / "proof").exists()


WRITTEN = None
"""Where files are opened to be written, while this is a set."""


@pytest.fixture(scope="session")
def audit():
    def hook(event, arguments):
        if event != "open" or WRITTEN is None or not isinstance(arguments[0], str):
            return
        if arguments[2] & (os.O_WRONLY | os.O_RDWR):
            WRITTEN.add(Path(arguments[0]).resolve())

    sys.addaudithook(hook)


def test_a_path_in_the_data_is_never_written_to(audit, tmp_path, monkeypatch, model):
    global WRITTEN  # an audit hook stays for ever
    trap = tmp_path / "trap"
    trap.mkdir()
    names = ("path", "file_name", "output_dir", "image", "id")
    path = tmp_path / "rows.jsonl"
    given = [{"text": str(trap / "text"), **dict.fromkeys(names, str(trap / "x"))} for _ in "ab"]
    good = [{"text": row["prompt"] + row["completion"]} for row in WORLD.finetuning_rows()[:9]]
    path.write_text("".join(json.dumps(row) + "\n" for row in given + good) + '{"text": 3}\n')
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    out = tmp_path / "out"
    WRITTEN = set()
    try:
        code = main(["train", "--model", str(model), "--data", str(path), "--output_dir", str(out),
                     *SHORT])  # fmt: skip
    finally:
        found, WRITTEN = WRITTEN, None
    assert code == 0
    assert any(file.name.startswith(STATE_FILE) for file in found)
    allowed = (out, tmp_path / "temporary", tmp_path / "cache", Path("/dev"), Path("/proc"))
    assert not [f for f in found if not any(f.is_relative_to(place) for place in allowed)]
    assert not list(trap.iterdir())


# Secrets ----------------------------------------------------------------------------------------


def test_no_token_is_written_or_said(model, rows, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "send", "train", "--model", str(model), "--data", str(rows),
               "--output_dir", str(out), "--hub_token", HUB_TOKEN, *SHORT]  # fmt: skip
    place = {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--logging_steps", "1", "--log_level", "debug"],
        env={**os.environ, **SECRETS, **place},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (out / "checkpoint-2" / STATE_FILE).is_file()
    said = {"standard output": done.stdout, "standard error": done.stderr}
    files = {str(f): f.read_bytes().decode("latin1") for f in tmp_path.rglob("*") if f.is_file()}
    for secret in (*SECRETS.values(), HUB_TOKEN):
        assert not [name for name, text in {**said, **files}.items() if secret in text]


def test_settings_do_not_show_or_save_the_token(tmp_path):
    config = SendConfig(str(tmp_path), hub_token=HUB_TOKEN, drop_fraction=0.3)
    assert config.hub_token == HUB_TOKEN
    assert HUB_TOKEN not in repr(config) + str(config)
    assert "drop_fraction=0.3" in repr(config)
    saved = pickle.loads(pickle.dumps(config))
    assert (saved.hub_token, saved.drop_fraction) == (None, 0.3)


@pytest.mark.parametrize(
    "arguments",
    [["--hub_tokenn", HUB_TOKEN], ["--hub_token", HUB_TOKEN, "--max_steps", "x"]],
)
def test_an_error_about_flags_does_not_repeat_a_token(arguments, capsys):
    assert main(["train", "--model", "x", "--data", "y", *arguments]) == 2
    assert HUB_TOKEN not in capsys.readouterr().err


@pytest.mark.parametrize("line", ["hub_token: {}: x", "hub_token: [{}", "hub_tokenn: {}"])
def test_an_error_about_a_file_of_settings_does_not_repeat_a_token(line, tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_text("model: x\ndata: y\n" + line.format(HUB_TOKEN))
    assert main(["train", "--config", str(file)]) == 2
    err = capsys.readouterr().err
    assert HUB_TOKEN not in err
    assert err.count("\n") == 1

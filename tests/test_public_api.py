"""What is public is listed, documented and importable; importing costs little."""

import inspect
import re
import subprocess
import sys
from importlib.resources import files

import pytest

import send
import specdens

PUBLIC = [(package, name) for package in (specdens, send) for name in package.__all__]


@pytest.mark.parametrize(("package", "name"), PUBLIC, ids=[f"{p.__name__}.{n}" for p, n in PUBLIC])
def test_every_public_name_is_documented(package, name):
    thing = getattr(package, name)
    text = inspect.getdoc(thing)
    assert text
    if inspect.ismodule(thing):
        return
    assert thing.__module__.startswith(package.__name__)
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        for section in ("Parameters", "Returns", "Raises", "Examples"):
            assert f"{section}\n{'-' * len(section)}" in text, section
        head = text.split("\nReturns\n")[0]
        described = "\n".join(re.findall(r"^(?=\S).* : .*$|^[\w*, ]+$", head, re.MULTILINE))
        assert not set(signature.parameters) - set(re.findall(r"\w+", described))
    elif not issubclass(thing, Warning) and name not in {"Estimate", "SpectralBounds"}:
        assert "Examples" in text or "Attributes" in text or "Parameters" in text


SAMPLED = ("logdet", "slogdet", "trace", "trace_function", "density", "local_density", "eigencount")


@pytest.mark.parametrize("name", SAMPLED)
def test_what_samples_says_what_it_costs(name):
    text = inspect.getdoc(getattr(specdens, name))
    notes = text.split("\nNotes\n")
    assert len(notes) == 2, "no Notes"
    assert re.search(r"\bproducts?\b|As `\w+`|see `\w+`", notes[1])


def test_data_first_options_by_keyword():
    for name in specdens.__all__:
        thing = getattr(specdens, name)
        if inspect.isfunction(thing):
            kinds = [p.kind for p in inspect.signature(thing).parameters.values()]
            assert kinds[0] is inspect.Parameter.POSITIONAL_OR_KEYWORD
            assert inspect.Parameter.KEYWORD_ONLY in kinds


def test_what_is_not_listed_is_not_there():
    with pytest.raises(AttributeError, match="no attribute"):
        _ = send.hallucination
    assert set(send.__all__) <= set(dir(send))


def test_importing_send_is_lazy():
    code = "import send, sys; print(*{'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_versions_agree():
    from importlib.metadata import version

    assert version("specdens") == specdens.__version__


@pytest.mark.parametrize("package", ["specdens", "send"])
def test_type_checkers_find_the_annotations(package):
    assert files(package).joinpath("py.typed").is_file()


MISSING = """
import sys
sys.modules["torch"] = None
sys.modules["trl"] = None
import send, send.cli
for name in ("train", "HallucinationScorer"):
    try:
        getattr(send, name)
    except ImportError as error:
        print(error)
print(send.cli.main(["score", "--model", "m"]), send.cli.main(["train", "--model", "m"]))
"""


def test_what_an_extra_brings_is_named_where_it_is_missing():
    done = subprocess.run(
        [sys.executable, "-c", MISSING], capture_output=True, text=True, check=True
    )
    *lines, codes = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.endswith("pip install 'specdens[send]'") for line in lines)
    assert codes == "2 2"
    assert done.stderr.count("pip install 'specdens[send]'\n") == 2 == done.stderr.count("\n")

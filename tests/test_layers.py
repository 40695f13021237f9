"""Folders import downward only; heavy libraries and private names stay where they are at home."""

import ast
import re
from graphlib import CycleError, TopologicalSorter

import pytest

import specdens
from docs.draw_architecture import file_of, folder_of, imports, sources

SPECDENS = """
    results scalar_functions files kernels arrays operators recurrences problem exact estimation
    structured vectors sketching gradients traces determinants spectra torch __init__ testing
    plotting cli __main__
"""
SEND = """
    data scores models checkpoints detection dropout evaluation distillation plotting training world
    demo __init__ cli_options cli __main__
"""
FOLDERS = {"specdens": SPECDENS.split(), "send": SEND.split()}
"""From the ground up. What stands directly under a package counts as a folder of one file."""

HEAVY = {
    "numba",
    "triton",
    "cupy",
    "cupyx",
    "dask",
    "torch",
    "transformers",
    "matplotlib",
    "pandas",
}

OF_MODELS = """
    models checkpoints detection dropout evaluation distillation training world.tokens
    demo.experiment
"""
HOMES = {
    "specdens": {"kernels.cpu": HEAVY, "kernels.gpu": HEAVY, "torch": {"torch"}},
    "send": {home: {"torch", "transformers"} for home in OF_MODELS.split()},
}
"""The folders and files that may load heavy libraries when they are loaded, and which."""

WITHOUT_MODELS = """
    checkpoints.manifest detection.score_table dropout.sensitivity dropout.selection
    evaluation.intervals evaluation.rouge
"""
LIGHT = {"specdens": [], "send": WITHOUT_MODELS.split()}
"""The files of such folders that may not."""

USED_BY_SEND = """
    arrays.libraries arrays.probes kernels.compiled recurrences.chebyshev_moments
    recurrences.lanczos recurrences.quadrature
"""
INNER = USED_BY_SEND.split()
"""What `send` uses of `specdens` besides what is public, by the names in their ``__all__``."""

PUBLIC = ["testing", "plotting", "torch.__init__"]
"""Modules of `specdens` that users import."""

LAZY = {"specdens": ["__init__", "torch.__init__"], "send": ["__init__", "world.__init__"]}
"""The ``__init__`` files that hold more than a docstring: names that load when first used."""

PACKAGES = list(FOLDERS)
FILES = {package: sources(package) for package in PACKAGES}


# Each rule takes sources, by the name of their file, and returns what breaks it.


def upward(package, files):
    """Yield the imports of a folder that does not stand below."""
    place = FOLDERS[package].index
    for file, source in files.items():
        for imported in imports(source):
            target = file_of(imported, package, files)
            if target is not None and place(folder_of(target)) > place(folder_of(file)):
                yield f"{file} imports {target}"


def circles(package, files):
    """Yield each circle of imports among the files of one folder."""
    for folder in FOLDERS[package]:
        inside = {file: source for file, source in files.items() if folder_of(file) == folder}
        targets = {
            file: {file_of(imported, package, files) for imported in imports(source)}
            for file, source in inside.items()
        }
        try:
            TopologicalSorter({f: t & set(inside) for f, t in targets.items()}).prepare()
        except CycleError as error:
            yield " -> ".join(error.args[1])


def early_heavy(package, files):
    """Yield the heavy libraries that are loaded with a file that is not their home."""
    for file, source in files.items():
        allowed = set()
        for home, libraries in HOMES[package].items():
            at_home = file == home or file.startswith(f"{home}.")
            if at_home and not file.endswith("__init__") and file not in LIGHT[package]:
                allowed |= libraries
        for imported in imports(source):
            library = imported.module.split(".")[0]
            if imported.early and library in HEAVY - allowed:
                yield f"{file} loads {library}"


def private(package, files):
    """Yield the private names that are taken from a file of another folder."""
    for file, source in files.items():
        modules = {}  # by the name that they have here
        for imported in imports(source):
            target = file_of(imported, package, files)
            if target is None or folder_of(target) == folder_of(file):
                continue
            if imported.name and imported.name.startswith("_"):
                yield f"{file} takes {imported.name} from {target}"
            if imported.name == target.split(".")[-1]:
                modules[imported.name] = target
        for owner, name in re.findall(r"\b(\w+)\.(_\w+)", source) if modules else ():
            if owner in modules:
                yield f"{file} takes {name} from {modules[owner]}"


def inner(files, library):
    """Yield what files of `send` use of `specdens` that is neither public nor in the list."""
    for file, source in files.items():
        for imported in imports(source):
            target = file_of(imported, "specdens", library)
            if target is None or target in PUBLIC or (target == "__init__" and not imported.name):
                continue
            if target == "__init__":
                listed = specdens.__all__
            elif target in INNER:
                listed = public_names(library[target])
            else:
                listed = []
            if imported.name not in listed:
                yield f"{file} takes {imported.name or 'all'} from specdens.{target}"


def public_names(source):
    """Return a file's ``__all__``."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def more_than_a_docstring(package, files):
    """Yield the ``__init__`` files of folders that hold anything else, or nothing."""
    for file, source in files.items():
        if file.endswith("__init__") and file not in LAZY[package]:
            tree = ast.parse(source)
            if len(tree.body) != 1 or ast.get_docstring(tree) is None:
                yield file


RULES = {
    rule.__name__: rule for rule in (upward, circles, early_heavy, private, more_than_a_docstring)
}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_list_of_folders_is_complete(package):
    assert {folder_of(file) for file in FILES[package]} == set(FOLDERS[package])


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("rule", RULES)
def test_every_file_keeps_to(rule, package):
    assert list(RULES[rule](package, FILES[package])) == []


def test_send_uses_what_is_public_of_specdens_or_listed():
    assert list(inner(FILES["send"], FILES["specdens"])) == []


def test_the_lists_name_what_is_there():
    assert set(INNER) | set(PUBLIC) <= set(FILES["specdens"])
    for package in PACKAGES:
        folders = {file.removesuffix(".__init__") for file in FILES[package]}
        assert set(HOMES[package]) | set(LIGHT[package]) <= folders
        assert set(LAZY[package]) <= set(FILES[package])


def test_specdens_does_not_know_send():
    for file, source in FILES["specdens"].items():
        assert not [i for i in imports(source) if i.module.split(".")[0] == "send"], file


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_are_absolute(package):
    for file, source in FILES[package].items():
        assert not [i for i in imports(source) if i.module.startswith(".")], file


# The rules can fail.


def broken(rule, package="specdens", **files):
    """Return what is wrong when files are added; a double underscore stands for the dot."""
    added = {name.replace("__", ".", 1): source for name, source in files.items()}
    before = list(RULES[rule](package, FILES[package]))
    return [x for x in RULES[rule](package, FILES[package] | added) if x not in before]


@pytest.mark.parametrize(
    "source",
    [
        "from specdens.spectra.density import density",
        "from specdens.spectra import density",
        "import specdens.spectra.density",
        "def late():\n    from specdens.spectra import density",
        "if TYPE_CHECKING:\n    pass\nelse:\n    from specdens.spectra import density",
    ],
)
def test_an_upward_import_is_seen(source):
    assert broken("upward", arrays__new=source) == ["arrays.new imports spectra.density"]


@pytest.mark.parametrize(
    "source",
    [
        "from specdens.kernels.compiled import kernel",
        "from specdens.arrays.probes import Probes",
        "if TYPE_CHECKING:\n    from specdens.spectra.density import density",
        "from scipy import spectra",
    ],
)
def test_other_imports_are_none_upward(source):
    assert broken("upward", arrays__new=source) == []


@pytest.mark.parametrize("source", ["import send", "from send import eigenscore"])
def test_the_public_names_of_a_package_stand_above_its_folders(source):
    assert broken("upward", "send", data__new=source) == ["data.new imports __init__"]


def test_an_import_of_a_file_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"no specdens\.nowhere"):
        broken("upward", arrays__new="from specdens.nowhere import density")


def test_a_circle_is_seen():
    first, second = "import specdens.arrays.b", "def late():\n    from specdens.arrays.a import x"
    (line,) = broken("circles", arrays__a=first, arrays__b=second)
    assert set(line.split(" -> ")) == {"arrays.a", "arrays.b"}
    assert broken("circles", arrays__a=first, arrays__b="import numpy") == []


def test_a_heavy_import_is_seen():
    early, late = "import torch.nn", "def f():\n    import torch.nn"
    assert broken("early_heavy", arrays__new=early) == ["arrays.new loads torch"]
    assert broken("early_heavy", arrays__new=late) == []
    assert broken("early_heavy", torch__new=early) == []
    assert broken("early_heavy", torch__new="import pandas") == ["torch.new loads pandas"]
    assert broken("early_heavy", "send", models__new=early) == []
    assert broken("early_heavy", "send", scores__new=early) == ["scores.new loads torch"]
    assert broken("early_heavy", "send", evaluation__rouge=early)


def test_a_private_name_of_another_folder_is_seen():
    taken, inside = "from specdens.kernels.compiled import _state", "arrays.new takes _state from"
    assert broken("private", arrays__new=taken) == [f"{inside} kernels.compiled"]
    module = "from specdens.kernels import compiled\ncompiled._state.forked"
    assert broken("private", arrays__new=module) == [f"{inside} kernels.compiled"]
    assert broken("private", kernels__new=taken) == []


def test_an_init_with_code_is_seen():
    full = {"new.__init__": '"""Says what."""\nimport numpy'}
    assert list(more_than_a_docstring("specdens", full)) == ["new.__init__"]
    assert list(more_than_a_docstring("specdens", {"new.__init__": ""})) == ["new.__init__"]
    assert list(more_than_a_docstring("specdens", {"new.__init__": '"""Says what."""'})) == []


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("import specdens", True),
        ("from specdens import logdet", True),
        ("from specdens.testing import laplacian", True),
        ("from specdens.arrays.libraries import to_host", True),
        ("from specdens import arrays", False),
        ("from specdens.arrays.libraries import _nothing_listed", False),
        ("from specdens.operators.algebra import Gram", False),
        ("import specdens.operators.algebra", False),
    ],
)
def test_what_send_may_use_of_specdens(source, allowed):
    assert (list(inner({"scores.new": source}, FILES["specdens"])) == []) == allowed

"""Each file imports only from files above it, and heavy libraries only where they are at home."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SPECDENS = """
    spectra.__init__ determinants.__init__ traces.__init__ gradients.__init__ sketching.__init__
    vectors.__init__ structured.__init__ estimation.__init__ exact.__init__ problem.__init__
    recurrences.__init__ operators.__init__ arrays.__init__ kernels.__init__
    kernels.cpu.__init__ kernels.gpu.__init__ kernels.cpu.step_frame kernels.cpu.llvm_vectors
    kernels.cpu.vector_update kernels.cpu.update kernels.cpu.csr_rows kernels.cpu.csr_step
    kernels.cpu.csr_statistics kernels.cpu.csr_power_traces kernels.cpu.random_signs
    kernels.cpu.gram_logdet kernels.cpu.gram_product kernels.cpu.threads kernels.cpu.dense_step
    kernels.cpu.dense_statistics kernels.cpu.row_tiles kernels.cpu.lattice_step
    kernels.gpu.triton_csr kernels.compiled kernels.gpu.cuda_graph kernels.gpu.csr_step
    arrays.libraries arrays.probes recurrences.chebyshev_series results
    operators.linear_operator operators.explicit operators.dense operators.sparse
    operators.sliced operators.diagonals operators.foreign_products operators.aslinearoperator
    operators.algebra operators.stencil recurrences.step recurrences.lanczos recurrences.quadrature
    recurrences.chebyshev_moments problem.bounds exact.factorizations problem.prepare
    structured.gram_nullspace structured.operators structured.spectrum_union spectra.inertia
    exact.pencils estimation.control_variates estimation.sampling scalar_functions
    estimation.truncation estimation.estimate structured.exact_rules estimation.probe_mean
    estimation.goal recurrences.krylov_basis recurrences.deflation estimation.deflation_gain
    estimation.multilevel estimation.pilot estimation.guarantee vectors.krylov_function
    gradients.histories gradients.autograd problem.stacks traces.trace_function
    determinants.nonsymmetric determinants.logdet determinants.logpdet sketching.sketch
    sketching.stopping sketching.budget sketching.xtrace sketching.hutch_plus_plus traces.trace
    sketching.xdiag traces.diagonal vectors.apply_function vectors.bilinear_forms
    vectors.greens_function vectors.quadratic_form determinants.inv_quad_logdet
    vectors.double_moments spectra.spectral_density spectra.density spectra.eigencount files
    spectra.functionals spectra.spectral_run spectra.run_files spectra.ritz_bounds
    spectra.distribution spectra.make_run spectra.spectrum spectra.entropies spectra.norms
    __init__ testing torch.batches torch.graphs torch.curvature torch.operators torch.__init__
    plotting cli __main__
"""

SEND = """
    demo.__init__ training.__init__ distillation.__init__ evaluation.__init__ dropout.__init__
    detection.__init__ checkpoints.__init__ models.__init__ scores.__init__ data.__init__
    scores.gram scores.eigenscore dropout.sensitivity dropout.selection models.hidden_states
    models.embeddings models.generation models.answers detection.score_table detection.scorer
    dropout.mask data.shapes data.lines data.loading dropout.tracking evaluation.intervals
    evaluation.rouge evaluation.rows evaluation.evaluate checkpoints.manifest
    checkpoints.checkpoint world.words world.facts world.population world.rows world.tokens
    world.closed_world world.rates world.__init__ plotting dropout.sensitivity_dropout
    dropout.schedule dropout.callback evaluation.callback distillation.divergence
    distillation.teacher_cache distillation.teacher distillation.distillation training.config
    training.result training.running_sums training.trainer __init__ demo.experiment demo.demo
    cli __main__
"""

HOMES = {"specdens": {"torch.batches", "torch.graphs", "torch.curvature", "torch.operators"}}
"""The files that are loaded only where their heavy library is; those of `kernels`, too."""

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
    models.hidden_states models.embeddings models.generation models.answers detection.scorer
    dropout.mask dropout.tracking evaluation.rows evaluation.evaluate checkpoints.checkpoint
    dropout.sensitivity_dropout dropout.schedule dropout.callback evaluation.callback
    distillation.divergence distillation.teacher_cache distillation.teacher
    distillation.distillation training.config training.result training.running_sums
    training.trainer world.tokens demo.experiment
"""
"""The files of `send` that handle models: these import torch and transformers right away."""

ORDER = {"specdens": SPECDENS.split(), "send": SEND.split()}


def modules(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        yield ".".join(path.relative_to(ROOT / package).with_suffix("").parts), path


def imports(path):
    """Return (module, whether at import time) of every import that is not for types only."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    typing = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relative to itself"
            yield node.module, id(node) not in inside
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) not in inside


@pytest.mark.parametrize("package", ORDER)
def test_the_list_is_complete(package):
    assert sorted(name for name, _ in modules(package)) == sorted(ORDER[package])


def place(imported, package):
    """Return the file in the order that an import loads; a package loads its ``__init__``."""
    if imported == package:
        return "__init__"
    inner = imported.removeprefix(f"{package}.")
    if inner == imported:
        return None
    return next((m for m in (inner, f"{inner}.__init__") if m in ORDER[package]), None)


@pytest.mark.parametrize(
    ("imported", "found"),
    [
        ("send", "__init__"),
        ("send.scores.eigenscore", "scores.eigenscore"),
        ("send.scores.eigenscore.ees", None),
        ("send.world", "world.__init__"),
        ("send.world.facts", "world.facts"),
        ("sendmail", None),
    ],
)
def test_where_an_import_leads(imported, found):
    assert place(imported, "send") == found


@pytest.mark.parametrize("package", ORDER)
def test_files_import_downward(package):
    order = ORDER[package]
    for name, path in modules(package):
        for imported, _ in imports(path):
            inner = place(imported, package)
            if inner is not None:
                assert order.index(inner) < order.index(name), f"{name} imports {imported}"


@pytest.mark.parametrize("package", ORDER)
def test_heavy_libraries_stay_at_home(package):
    """Elsewhere they are imported inside the function that needs them."""
    for name, path in modules(package):
        kernels = name.startswith("kernels.") and name != "kernels.compiled"
        if kernels or name in HOMES.get(package, ()):
            continue
        home = {"torch", "transformers"} if package == "send" and name in OF_MODELS.split() else {}
        early = {imported.split(".")[0] for imported, now in imports(path) if now}
        assert not (HEAVY & early) - set(home), name


def test_specdens_does_not_know_send():
    for name, path in modules("specdens"):
        assert not [i for i, _ in imports(path) if i.split(".")[0] == "send"], name

"""Curvature of Torch models: against dense matrices by other means, whatever the batches."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, TensorDataset

import specdens
from specdens.torch import fisher_operator, gauss_newton_operator, hessian_operator

MAKERS = [
    pytest.param(hessian_operator, id="hessian"),
    pytest.param(gauss_newton_operator, id="gauss-newton"),
    pytest.param(fisher_operator, id="fisher"),
    pytest.param(partial(fisher_operator, kind="empirical"), id="empirical"),
]
N, INPUTS, CLASSES = 7, 4, 3


def perceptron():
    torch.manual_seed(0)
    layers = nn.Linear(INPUTS, 5), nn.Tanh(), nn.Linear(5, CLASSES)
    return nn.Sequential(*layers).double()


def convolutional():
    torch.manual_seed(1)
    layers = (
        nn.Conv1d(1, 2, 3, padding=1), nn.BatchNorm1d(2), nn.Softplus(), nn.Flatten(),
        nn.Linear(2 * INPUTS, CLASSES),
    )  # fmt: skip
    return nn.Sequential(nn.Unflatten(1, (1, INPUTS)), *layers).double().eval()


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.cells, self.head = nn.GRU(1, 2, batch_first=True), nn.Linear(2, CLASSES)

    def forward(self, x):
        return self.head(self.cells(x[..., None])[0][:, -1])


MODELS = [
    pytest.param(perceptron, id="perceptron"),
    pytest.param(convolutional, id="convolutional"),
    pytest.param(lambda: Recurrent().double(), id="recurrent"),
]


@pytest.fixture
def inputs():
    return torch.randn(N, INPUTS, dtype=torch.float64, generator=torch.manual_seed(3))


def targets_for(loss):
    generator = torch.manual_seed(4)
    if isinstance(loss, nn.CrossEntropyLoss):
        return torch.randint(0, CLASSES, (N,), generator=generator)
    return torch.rand(N, CLASSES, dtype=torch.float64, generator=generator)


def flat(parts):
    return torch.cat([part.reshape(-1) for part in parts])


def by_vector(model, value):
    """Return ``value(model)`` as a function of the vector of its parameters."""
    names, tensors = zip(*model.named_parameters(), strict=True)

    def of(vector):
        pieces = torch.split(vector, [p.numel() for p in tensors])
        named = {k: v.view(p.shape) for k, v, p in zip(names, pieces, tensors, strict=True)}
        return value(lambda *a, **b: torch.func.functional_call(model, named, a, b))

    return of, flat(tensors).detach()


def hessian_of(f):
    return torch.func.jacrev(torch.func.grad(f))


def dense_hessian(model, value):
    of, point = by_vector(model, value)
    with sdpa_kernel(SDPBackend.MATH):
        return hessian_of(of)(point)


def jacobian(model, inputs):
    of, point = by_vector(model, lambda call: call(inputs))
    return torch.func.jacrev(of)(point).reshape(-1, len(point))


def batches(x, y, size):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("make", MODELS)
def test_hessian_equals_the_dense_one(make, reduction, inputs):
    model, loss = make(), nn.CrossEntropyLoss(reduction=reduction)
    y = targets_for(loss)
    H = hessian_operator(model, loss, (inputs, y))
    expected = dense_hessian(model, lambda call: loss(call(inputs), y))
    torch.testing.assert_close(H.columns(), expected)
    gradient = flat(torch.autograd.grad(loss(model(inputs), y), list(model.parameters())))
    torch.testing.assert_close(H.gradient, gradient)
    assert H.hermitian
    assert H.dtype == torch.float64


LOSSES = [
    nn.CrossEntropyLoss(),
    nn.MSELoss(),
    nn.BCEWithLogitsLoss(reduction="sum"),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_gauss_newton_is_the_sandwich(loss, inputs):
    model, y = perceptron(), targets_for(loss)
    outputs = model(inputs).detach()
    J, inner = jacobian(model, inputs), hessian_of(lambda f: loss(f, y))(outputs)
    G = gauss_newton_operator(model, loss, (inputs, y))
    torch.testing.assert_close(G.columns(), J.T @ inner.reshape(len(J), len(J)) @ J)
    assert G.lower == 0


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_gauss_newton_of_a_linear_model_is_its_hessian(loss, inputs):
    model, y = nn.Linear(INPUTS, CLASSES).double(), targets_for(loss)
    G, H = (make(model, loss, (inputs, y)) for make in (gauss_newton_operator, hessian_operator))
    torch.testing.assert_close(G.columns(), H.columns())


def test_fisher_is_the_expectation_over_the_classes(inputs):
    model, loss = perceptron(), nn.CrossEntropyLoss()
    expected = 0
    for x in inputs:
        for k, p in enumerate(model(x).softmax(0).detach()):
            g = flat(torch.autograd.grad(-model(x).log_softmax(0)[k], list(model.parameters())))
            expected = expected + p / N * torch.outer(g, g)
    F_ = fisher_operator(model, loss, batches(inputs, targets_for(loss), 3))
    torch.testing.assert_close(F_.columns(), expected)


def test_fisher_is_the_expectation_over_normal_targets(inputs):
    """A sum of squares: variance 1/2, so that the score ``2 (y - f)`` has variance 2."""
    model, loss = perceptron(), nn.MSELoss(reduction="sum")
    J = jacobian(model, inputs)
    torch.testing.assert_close(
        fisher_operator(model, loss, (inputs, targets_for(loss))).columns(), 2 * J.T @ J
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_empirical_fisher_is_the_scatter_of_gradients(reduction, inputs):
    model, loss = perceptron(), nn.CrossEntropyLoss(reduction=reduction)
    y = targets_for(loss)
    each = [
        flat(torch.autograd.grad(loss(model(x[None]), t[None]), list(model.parameters())))
        for x, t in zip(inputs, y, strict=True)
    ]
    scatter = torch.stack(each).T @ torch.stack(each)
    expected = scatter / N if reduction == "mean" else scatter
    E = fisher_operator(model, loss, batches(inputs, y, 3), kind="empirical")
    torch.testing.assert_close(E.columns(), expected)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("memory", [None, 1], ids=["kept", "rebuilt"])
@pytest.mark.parametrize("loss", [LOSSES[0], LOSSES[1]], ids=["cross-entropy", "squares"])
def test_batches_do_not_matter(make, memory, loss, inputs):
    model, y = perceptron(), targets_for(loss)
    whole = make(model, loss, (inputs, y))
    assert whole.keeps_graphs
    x = torch.randn(len(whole.gradient), 3, dtype=torch.float64, generator=torch.manual_seed(5))
    for size in (1, 3, N):
        cut = make(model, loss, batches(inputs, y, size), graph_memory=memory)
        assert cut.keeps_graphs is (memory is None)
        torch.testing.assert_close(cut @ x, whole @ x)
        torch.testing.assert_close(cut.gradient, whole.gradient)


@pytest.mark.parametrize("memory", [None, 1], ids=["kept", "rebuilt"])
def test_a_shuffling_loader_is_harmless(memory, inputs):
    model, loss = perceptron(), nn.CrossEntropyLoss()
    y = targets_for(loss)
    torch.manual_seed(6)
    loader = DataLoader(TensorDataset(inputs, y), batch_size=2, shuffle=True)
    H = hessian_operator(model, loss, loader, graph_memory=memory)
    torch.testing.assert_close(H.columns(), hessian_operator(model, loss, (inputs, y)).columns())


def test_a_generator_is_read_once(inputs):
    model, loss = perceptron(), nn.CrossEntropyLoss()
    y = targets_for(loss)
    H = hessian_operator(model, loss, iter(batches(inputs, y, 3)), graph_memory=1)
    torch.testing.assert_close(H.columns(), hessian_operator(model, loss, (inputs, y)).columns())


WEIGHTS = torch.tensor([1.0, 0.5, 3.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(ignore_index=1),
        nn.CrossEntropyLoss(weight=WEIGHTS),
        partial(F.cross_entropy, weight=WEIGHTS, ignore_index=0),
        F.cross_entropy,
    ],
    ids=["ignored", "weights", "partial", "function"],
)
def test_what_a_mean_leaves_out_does_not_count(loss, inputs):
    model, y = perceptron(), targets_for(nn.CrossEntropyLoss())
    H = hessian_operator(model, loss, batches(inputs, y, 2))
    expected = dense_hessian(model, lambda call: loss(call(inputs), y))
    torch.testing.assert_close(H.columns(), expected)


def test_terms_of_a_mean_of_ones_own(inputs):
    def loss(outputs, targets):
        kept = targets > 0
        return F.cross_entropy(outputs[kept], targets[kept])

    model, y = perceptron(), torch.tensor([0, 1, 2, 1, 0, 2, 1])
    options = {"reduction": "mean", "terms": lambda x, y: (y > 0).sum()}
    H = hessian_operator(model, loss, batches(inputs, y, 3), **options)
    expected = dense_hessian(model, lambda call: loss(call(inputs), y))
    torch.testing.assert_close(H.columns(), expected)


@given(st.integers(1, 9), st.integers(0, 2**31))
def test_a_block_is_its_columns(columns, seed):
    loss = nn.CrossEntropyLoss()
    model, x = perceptron(), torch.randn(N, INPUTS, dtype=torch.float64)
    H = hessian_operator(model, loss, (x, targets_for(loss)))
    block = torch.randn(H.shape[0], columns, dtype=H.dtype, generator=torch.manual_seed(seed))
    each = torch.stack([H @ block[:, r] for r in range(columns)], dim=1)
    torch.testing.assert_close(H @ block, each)
    H.width = 2
    torch.testing.assert_close(H @ block, each)
    torch.testing.assert_close(block.T @ (H @ block), (H @ block).T @ block)


@given(st.integers(1, 5), st.booleans())
def test_a_step_is_a_product_and_an_update(columns, by_column):
    loss = nn.CrossEntropyLoss()
    inputs = torch.randn(N, INPUTS, dtype=torch.float64, generator=torch.manual_seed(3))
    H = hessian_operator(perceptron(), loss, (inputs, targets_for(loss)))
    H._slabs = lambda columns: [slice(0, 20), slice(20, 60)]
    x, y = torch.randn(2, H.shape[0], 8, dtype=H.dtype, generator=torch.manual_seed(columns))
    x[:, columns:] = y[:, columns:] = 0
    a, b, c = torch.arange(24.0).reshape(3, 8) if by_column else (0.5, -1.0, 2.0)
    for factor in (a, 0.0):
        expected = factor * (H @ x) + b * x + c * y
        squares, mixed = H.recurrence(columns)(x, y, factor, b, c)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(squares, (y * y).sum(0))
        torch.testing.assert_close(mixed, (y * x).sum(0))


@pytest.mark.parametrize("make", MAKERS[1:])
def test_semidefinite(make, inputs):
    model, loss = perceptron(), nn.CrossEntropyLoss()
    matrix = make(model, loss, (inputs, targets_for(loss))).columns()
    values = torch.linalg.eigvalsh(matrix)
    assert values[0] >= -1e-14 * values[-1]
    assert torch.equal(matrix, matrix.T) or torch.allclose(matrix, matrix.T, atol=1e-14)


class Doubled(torch.autograd.Function):
    """A function that vmap does not know."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return Doubled.apply(g)


class Opaque(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = perceptron()

    def forward(self, x):
        return Doubled.apply(self.inner(x))


def test_what_vmap_does_not_know_goes_column_by_column(inputs):
    loss = nn.CrossEntropyLoss()
    y = targets_for(loss)
    H = hessian_operator(Opaque(), loss, (inputs, y))
    torch.testing.assert_close(
        H.columns(), hessian_operator(perceptron(), loss, (inputs, y)).columns()
    )


def test_frozen_parameters_are_left_out(inputs):
    model, loss = perceptron(), nn.CrossEntropyLoss()
    y = targets_for(loss)
    whole = hessian_operator(model, loss, (inputs, y)).columns()
    model[0].requires_grad_(False)
    count = INPUTS * 5 + 5
    rest = hessian_operator(model, loss, (inputs, y)).columns()
    torch.testing.assert_close(rest, whole[count:, count:])


@pytest.mark.parametrize("by", ["name", "tensor"])
def test_some_parameters(by, inputs):
    model, loss = perceptron(), nn.CrossEntropyLoss()
    y = targets_for(loss)
    whole = hessian_operator(model, loss, (inputs, y)).columns()
    params = ["2.weight", "2.bias"] if by == "name" else model[2].parameters()
    count = INPUTS * 5 + 5
    part = hessian_operator(model, loss, (inputs, y), params=params).columns()
    torch.testing.assert_close(part, whole[count:, count:])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.first, self.last = nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, INPUTS)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def test_tied_weights_count_once(inputs):
    model, loss = Tied().double(), nn.CrossEntropyLoss()
    y = targets_for(loss)
    H = hessian_operator(model, loss, (inputs, y))
    assert H.shape[0] == INPUTS**2 + 2 * INPUTS
    expected = dense_hessian(model, lambda call: loss(call(inputs), y))
    torch.testing.assert_close(H.columns(), expected)


def test_unused_and_linear_parameters_have_zero_rows(inputs):
    model = perceptron()
    model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    H = hessian_operator(model, lambda f, y: f.sum(), (inputs, targets_for(nn.MSELoss())))
    assert not H.columns()[:2].any()
    linear = hessian_operator(
        nn.Linear(INPUTS, 1).double(), lambda f, y: f.sum(), (inputs, torch.ones(N))
    )
    assert not linear.columns().any()
    G = gauss_newton_operator(model, lambda f, y: f.sum(), (inputs, torch.ones(N)))
    assert not G.columns().any()


@pytest.fixture(scope="module")
def language_model():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(8)
    config = transformers.GPTNeoXConfig(
        hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=6,
        vocab_size=5, max_position_embeddings=8, use_cache=False,
    )  # fmt: skip
    return transformers.GPTNeoXForCausalLM(config).double().eval()


def texts():
    """Four texts, of which two end early."""
    ids = torch.randint(0, 5, (4, 6), generator=torch.manual_seed(9))
    mask = torch.ones_like(ids)
    mask[0, 3:] = mask[2, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def shifted(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def test_language_model_with_its_own_loss(language_model):
    """Tokens count, not texts: batches of unlike length weigh by what they predict."""
    batch = texts()
    named = {k: v for k, v in batch.items() if k != "labels"}
    expected = dense_hessian(
        language_model, lambda call: shifted(call(**named).logits, batch["labels"])
    )
    x = torch.randn(len(expected), 2, dtype=torch.float64, generator=torch.manual_seed(10))
    halves = [{k: v[i : i + 2] for k, v in batch.items()} for i in (0, 2)]
    counted = {"reduction": "mean", "terms": lambda _, labels: (labels[:, 1:] >= 0).sum()}
    H = hessian_operator(language_model, shifted, halves, **counted)
    torch.testing.assert_close(H @ x, expected @ x)
    for data in (batch, halves):
        H = hessian_operator(language_model, None, data)
        # Transformers computes its losses in single precision.
        torch.testing.assert_close(H @ x, expected @ x, rtol=1e-3, atol=1e-4)


def test_gauss_newton_of_a_language_model(language_model):
    batch = texts()
    labels = batch["labels"]
    G = gauss_newton_operator(language_model, shifted, batch)
    of, point = by_vector(
        language_model, lambda call: call(batch["input_ids"], batch["attention_mask"]).logits
    )
    with sdpa_kernel(SDPBackend.MATH):
        J = torch.func.jacrev(of)(point).reshape(-1, len(point))
    inner = hessian_of(lambda f: shifted(f, labels))(of(point)).reshape(len(J), len(J))
    x = torch.randn(len(point), 2, dtype=torch.float64, generator=torch.manual_seed(11))
    torch.testing.assert_close(G @ x, J.T @ (inner @ (J @ x)))


def test_answers_equal_those_of_the_dense_matrix(inputs):
    model, loss = perceptron(), nn.CrossEntropyLoss()
    data = inputs, targets_for(loss)
    H = hessian_operator(model, loss, data)
    matrix = H.columns()
    assert specdens.trace(H, method="exact") == pytest.approx(float(matrix.trace()))
    G = specdens.Shifted(gauss_newton_operator(model, loss, data), 0.1)
    value = specdens.logdet(G, probes=43, moments=86)
    assert float(value) == pytest.approx(float(torch.logdet(G.columns())))
    rho = specdens.density(H, rng=0)
    twin = specdens.density(matrix, rng=0, method="chebyshev")
    assert rho.cumulative(0.1) == pytest.approx(twin.cumulative(0.1), abs=1e-6)
    products = specdens.aslinearoperator(
        lambda v: matrix @ v, n=len(matrix), like=matrix, hermitian=True
    )
    estimates = [float(specdens.trace(op, probes=10, rng=0)) for op in (H, products)]
    assert estimates[0] == pytest.approx(estimates[1])


def test_single_precision_stays(inputs):
    model, loss = perceptron().float(), nn.CrossEntropyLoss()
    H = hessian_operator(model, loss, (inputs.float(), targets_for(loss)))
    x = torch.ones(H.shape[0])
    assert (H @ x).dtype == torch.float32
    assert (H @ x.double()).dtype == torch.float32


def test_inference_mode_is_left(inputs):
    model, loss = perceptron(), nn.CrossEntropyLoss()
    y = targets_for(loss)
    expected = hessian_operator(model, loss, (inputs, y)).columns()
    with torch.no_grad():
        found = hessian_operator(model, loss, (inputs, y)).columns()
    torch.testing.assert_close(found, expected)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = perceptron()

    def forward(self, x, y):
        return self.inner(x * y)


@pytest.mark.parametrize("named", [False, True])
def test_several_inputs(named, inputs):
    loss = nn.CrossEntropyLoss()
    y, other = targets_for(loss), inputs.flip(0)
    data = [({"x": inputs, "y": other} if named else (inputs, other), y)]
    expected = hessian_operator(perceptron(), loss, (inputs * other, y)).columns()
    torch.testing.assert_close(hessian_operator(TwoInputs(), loss, data).columns(), expected)
    with pytest.raises(TypeError, match="Several inputs go into a tuple"):
        hessian_operator(TwoInputs(), loss, [(inputs, other, y)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_come_to_the_device(inputs):
    loss = nn.CrossEntropyLoss()
    y = targets_for(loss)
    there = hessian_operator(perceptron().cuda(), loss, batches(inputs, y, 3))
    here = hessian_operator(perceptron(), loss, (inputs, y))
    torch.testing.assert_close(there.columns().cpu(), here.columns())
    assert specdens.trace(there, rng=0).device.type == "cuda"


def test_changed_parameters_are_noticed(inputs):
    model, loss = perceptron(), nn.CrossEntropyLoss()
    H = hessian_operator(model, loss, (inputs, targets_for(loss)))
    before = copy.deepcopy(H.gradient)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    with pytest.raises(ValueError, match="have changed since"):
        H @ before


def test_dropout_is_noticed(inputs):
    model = nn.Sequential(perceptron(), nn.Dropout(0.5))
    data = inputs, targets_for(nn.CrossEntropyLoss())
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        hessian_operator(model, nn.CrossEntropyLoss(), data)
    hessian_operator(model, nn.CrossEntropyLoss(), data, check_deterministic=False)
    hessian_operator(model.eval(), nn.CrossEntropyLoss(), data)


def test_batch_norm_is_noticed(inputs):
    with pytest.raises(ValueError, match="BatchNorm is in training mode"):
        hessian_operator(convolutional().train(), F.cross_entropy, (inputs, targets_for(LOSSES[0])))


def test_random_data_are_noticed(inputs):
    loss = nn.CrossEntropyLoss()
    torch.manual_seed(1)
    data = TensorDataset(inputs, targets_for(loss))
    loader = DataLoader(data, batch_size=5, shuffle=True, drop_last=True)
    with pytest.raises(ValueError, match="different gradients"):
        hessian_operator(perceptron(), loss, loader)


def mixed(kind):
    model = perceptron()
    if kind == "dtype":
        model[2].float()
    if kind == "half":
        model.bfloat16()
    if kind == "frozen":
        model.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"model": lambda x: x}, TypeError, r"expected a torch\.nn\.Module"),
        ({"model": mixed("dtype")}, ValueError, "more than one dtype: torch.float32, torch.flo"),
        ({"model": mixed("half")}, TypeError, r"model\.float\(\)"),
        ({"model": mixed("frozen")}, ValueError, "requires_grad"),
        ({"params": ["0.weights"]}, ValueError, "0.weights is not among the parameters"),
        ({"params": [torch.ones(1)]}, ValueError, "a Tensor is not among"),
        ({"loss": "mse"}, TypeError, "loss is of type str"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, ValueError, "reduction of the loss is"),
        ({"loss": lambda f, y: f}, ValueError, r"loss of a batch is \(7, 3\)"),
        ({"loss": None}, TypeError, "loss is None"),
        ({"reduction": "average"}, ValueError, "'average'"),
        ({"data": 3}, TypeError, "data is of type int"),
        ({"data": torch.ones(3)}, TypeError, "data is of type Tensor"),
        ({"data": []}, ValueError, "no batch"),
        ({"data": [3]}, TypeError, "a batch is of type int"),
    ],
)
def test_errors(change, error, match, inputs):
    loss = nn.CrossEntropyLoss()
    given_ = {"model": perceptron(), "loss": loss, "data": (inputs, targets_for(loss))} | change
    with pytest.raises(error, match=match):
        hessian_operator(**given_)


def test_parameters_on_several_devices():
    model = perceptron()
    model[2].to("meta")
    with pytest.raises(ValueError, match="more than one device: cpu, meta"):
        hessian_operator(model, nn.CrossEntropyLoss(), (torch.ones(1, 4), torch.ones(1)))


def test_a_reduction_that_nobody_states(inputs):
    def loss(f, y):
        return ((f - y) ** 2).sum()

    y = targets_for(nn.MSELoss())
    with pytest.raises(ValueError, match='reduction="sum"'):
        hessian_operator(perceptron(), loss, batches(inputs, y, 3))
    with pytest.raises(ValueError, match='reduction="sum"'):
        fisher_operator(perceptron(), loss, (inputs, y), kind="empirical")
    found = hessian_operator(perceptron(), loss, batches(inputs, y, 3), reduction="sum")
    torch.testing.assert_close(
        found.columns(), hessian_operator(perceptron(), loss, (inputs, y)).columns()
    )


def test_fisher_needs_a_distribution(inputs):
    data = inputs, targets_for(nn.CrossEntropyLoss())
    for loss in (nn.L1Loss(), nn.CrossEntropyLoss(label_smoothing=0.1), F.nll_loss):
        with pytest.raises(ValueError, match="predictive distribution"):
            fisher_operator(perceptron(), loss, data)
    with pytest.raises(ValueError, match="kind is 'mc'"):
        fisher_operator(perceptron(), nn.CrossEntropyLoss(), data, kind="mc")
    with pytest.raises(TypeError, match="loss is None"):
        fisher_operator(perceptron(), None, data)


def test_not_a_number(inputs):
    with pytest.raises(ValueError, match="gradient of the loss contains NaN"):
        hessian_operator(perceptron(), F.mse_loss, (inputs * torch.nan, torch.ones(N, 3)))


def test_targets_that_cannot_be_counted(inputs):
    def loss(f, y):
        return F.cross_entropy(f, y[0])

    data = [(x, [y]) for x, y in batches(inputs, targets_for(nn.CrossEntropyLoss()), 3)]
    with pytest.raises(TypeError, match="Pass terms="):
        hessian_operator(perceptron(), loss, data, reduction="mean")

"""The command line on good, bad and hostile files: answers, or one line and exit code 2."""

import json
import math
import resource
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from specdens.cli import main
from specdens.files import MatrixFileError, read_matrix
from specdens.testing import laplacian, laplacian_eigenvalues

L = laplacian(9, 9)
TRUTH = float(np.log(laplacian_eigenvalues(9, 9)).sum())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("matrices")
    scipy.io.mmwrite(place / "sparse.mtx", L)
    scipy.io.mmwrite(place / "dense.mtx", L.toarray())
    for form in ("csr", "csc", "coo", "bsr", "dia"):
        sp.save_npz(place / f"{form}.npz", L.asformat(form))
    np.save(place / "dense.npy", L.toarray())
    return place


GOOD = [
    "sparse.mtx",
    "dense.mtx",
    "csr.npz",
    "csc.npz",
    "coo.npz",
    "bsr.npz",
    "dia.npz",
    "dense.npy",
]


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("name", GOOD)
def test_logdet_of_every_format(folder, capsys, name):
    code, out, err = run(capsys, "logdet", folder / name, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["logabsdet"] == pytest.approx(TRUTH)
    assert (report["sign"], report["method"]) == (1, "exact")


def test_plain_output_and_options(folder, capsys):
    code, out, _ = run(
        capsys, "logdet", folder / "sparse.mtx", "--method", "lanczos", "--moments", 60,
        "--probes", 5, "--seed", 3, "--shift", 0.5,
    )  # fmt: skip
    assert code == 0
    assert ["matvecs", "150"] in [line.split() for line in out.splitlines()]
    assert ["seed", "3"] in [line.split() for line in out.splitlines()]


def test_trace(folder, capsys):
    assert json.loads(run(capsys, "trace", folder / "csr.npz", "--json")[1])["trace"] == 4 * 81
    out = run(capsys, "trace", folder / "csr.npz", "--shift", 1, "--json")[1]
    assert json.loads(out)["trace"] == 5 * 81
    out = run(capsys, "trace", folder / "dense.npy", "--function", "exp", "--json")[1]
    assert json.loads(out)["trace"] == pytest.approx(np.exp(laplacian_eigenvalues(9, 9)).sum())


def test_dos(folder, capsys, tmp_path):
    picture = tmp_path / "dos.png"
    code, out, _ = run(capsys, "dos", folder / "csr.npz", "--plot", picture, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["quantiles"]["0.5"] == pytest.approx(4, abs=0.01)
    assert len(report["energies"]) == len(report["density"]) == len(report["stderr"])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_info(folder, capsys):
    report = json.loads(run(capsys, "info", folder / "csc.npz", "--json")[1])
    assert report["shape"] == [81, 81]
    assert report["hermitian"]
    assert report["gershgorin"] == [0, 8]
    assert report["logdet_auto"] == "exact"
    assert report["predicted_lu_bytes"] > 0
    assert run(capsys, "info", folder / "dense.npy")[0] == 0


@pytest.mark.parametrize("command", ["logdet", "trace"])
def test_convergence_plot(folder, capsys, tmp_path, command):
    picture = tmp_path / "steps.png"
    extra = ["--function", "exp"] if command == "trace" else []
    code, _, err = run(capsys, command, folder / "csr.npz", "--plot", picture, *extra)
    assert (code, err) == (0, "")
    assert picture.stat().st_size > 1000
    assert run(capsys, "logdet", folder / "csr.npz", "--plot", "/nowhere/x.png")[0] == 2


def test_doubt_goes_to_standard_error(folder, capsys, tmp_path):
    singular = tmp_path / "singular.npy"
    x = np.random.default_rng(0).standard_normal((9, 4))
    np.save(singular, x @ x.T)
    code, out, err = run(capsys, "logdet", singular, "--json")
    assert code == 0
    assert json.loads(out)["logabsdet"] == "-inf"
    assert "singular to working precision" in err


def test_complex_results(capsys, tmp_path):
    path = tmp_path / "complex.npy"
    np.save(path, np.diag([1j, 2.0]))
    assert json.loads(run(capsys, "trace", path, "--json")[1])["trace"] == "(2+1j)"
    report = json.loads(run(capsys, "logdet", path, "--json")[1])
    assert (report["logabsdet"], report["sign"]) == (pytest.approx(math.log(2)), "1j")


def npy_header(shape, descr="<f8"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (63 - (len(text) + 10) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def altered_npz(path, **changes):
    sp.save_npz(path, L)
    with np.load(path) as arrays:
        parts = dict(arrays)
    np.savez(path, **(parts | changes))


def bomb(path):
    """An archive whose directory says that each member unpacks to 2 GB."""
    np.savez(
        path, **{name: np.zeros(9) for name in ("data", "indices", "indptr", "shape", "format")}
    )
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        content[at + 24 : at + 28] = struct.pack("<I", 2**31)
        at = content.find(b"PK\x01\x02", at + 1)
    path.write_bytes(bytes(content))


MTX = "%%MatrixMarket matrix coordinate real general\n"
HOSTILE = {
    "missing.mtx": lambda p: None,
    "folder.npy": lambda p: p.mkdir(),
    "text.txt": lambda p: p.write_text("1 2"),
    "empty.npy": lambda p: p.write_bytes(b""),
    "empty.npz": lambda p: p.write_bytes(b""),
    "empty.mtx": lambda p: p.write_bytes(b""),
    "junk.npy": lambda p: p.write_bytes(b"junk" * 100),
    "junk.npz": lambda p: p.write_bytes(b"junk" * 100),
    "junk.mtx": lambda p: p.write_bytes(b"\xff\xfe\x00junk" * 100),
    "vector.npy": lambda p: np.save(p, np.ones(3)),
    "text.npy": lambda p: np.save(p, np.array([["a"]])),
    "dates.npy": lambda p: np.save(p, np.array([["2020-01-01"]], dtype="M8[D]")),
    "record.npy": lambda p: np.save(p, np.zeros((2, 2), dtype=[("a", "f8")])),
    "object.npy": lambda p: np.save(p, np.array([[{}]], dtype=object), allow_pickle=True),
    "object.npz": lambda p: np.savez(p, format=np.array([{}], dtype=object), allow_pickle=True),
    "other.npz": lambda p: np.savez(p, a=np.eye(3)),
    "absurd.npy": lambda p: p.write_bytes(npy_header((10**11, 10**11)) + bytes(80)),
    "overflow.npy": lambda p: p.write_bytes(npy_header((2**40, 2**40)) + bytes(80)),
    "negative.npy": lambda p: p.write_bytes(npy_header((-3, -3)) + bytes(80)),
    "version.npy": lambda p: p.write_bytes(b"\x93NUMPY\x09\x00" + bytes(200)),
    "cut.npy": lambda p: (np.save(p, np.eye(50)), p.write_bytes(p.read_bytes()[:3000])),
    "cut.npz": lambda p: (sp.save_npz(p, L), p.write_bytes(p.read_bytes()[:700])),
    "flipped.npz": lambda p: (
        sp.save_npz(p, L),
        p.write_bytes((lambda b: b[:200] + bytes(60) + b[260:])(p.read_bytes())),
    ),
    "indices.npz": lambda p: altered_npz(p, indices=np.full(L.nnz, 10**6, np.int32)),
    "minus.npz": lambda p: altered_npz(p, indices=np.full(L.nnz, -5, np.int32)),
    "indptr.npz": lambda p: altered_npz(p, indptr=np.arange(82, dtype=np.int32)[::-1].copy()),
    "lengths.npz": lambda p: altered_npz(p, data=np.ones(3)),
    "shape.npz": lambda p: altered_npz(p, shape=np.array([10**12, 10**12])),
    "format.npz": lambda p: altered_npz(p, format=np.array(b"exec")),
    "bomb.npz": bomb,
    "rows.mtx": lambda p: p.write_text(MTX + "1000000000000 1000000000000 1\n1 1 1.0\n"),
    "entries.mtx": lambda p: p.write_text(MTX + "10 10 500000000000\n1 1 1.0\n"),
    "array.mtx": lambda p: p.write_text(
        MTX.replace("coordinate", "array") + "100000000 100000000\n1.0\n"
    ),
    "outside.mtx": lambda p: p.write_text(MTX + "3 3 1\n7 1 1.0\n"),
    "below.mtx": lambda p: p.write_text(MTX + "3 3 1\n0 1 1.0\n"),
    "words.mtx": lambda p: p.write_text(MTX + "3 3 1\none one one\n"),
    "short.mtx": lambda p: p.write_text(MTX + "3 3 3\n1 1 1.0\n2 2 1.0\n"),
    "nan.npy": lambda p: np.save(p, np.full((2, 2), np.nan)),
    "rectangle.npy": lambda p: np.save(p, np.ones((2, 3))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_give_one_line_and_exit_code_2(capsys, tmp_path, name):
    path = tmp_path / name
    HOSTILE[name](path)
    code, out, err = run(capsys, "logdet", path)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("specdens: ")
    assert "Traceback" not in err
    assert name in err or name in {"nan.npy", "rectangle.npy"}


@pytest.mark.parametrize("name", ["absurd.npy", "bomb.npz", "rows.mtx", "entries.mtx", "array.mtx"])
def test_memory_stays_bounded(tmp_path, name):
    """In a process that may take 1.5 GB, imports included."""
    path = tmp_path / name
    HOSTILE[name](path)

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (3 * 2**29, 3 * 2**29))

    done = subprocess.run(
        [sys.executable, "-m", "specdens", "info", str(path)],
        capture_output=True, text=True, preexec_fn=limit, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "MemoryError" not in done.stderr


def test_nothing_is_unpickled(tmp_path):
    """A pickle that would leave a mark, in each container that could hold one."""
    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    evil = np.array([[Evil()]], dtype=object)
    np.save(tmp_path / "a.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "b.npz", format=evil, shape=evil, data=evil)
    for name in ("a.npy", "b.npz"):
        with pytest.raises(MatrixFileError):
            read_matrix(tmp_path / name)
    assert not mark.exists()


def test_bad_options_end_with_code_2(folder, capsys):
    with pytest.raises(SystemExit) as end:
        main(["logdet"])
    assert end.value.code == 2
    capsys.readouterr()
    code, _, err = run(capsys, "logdet", folder / "csr.npz", "--moments", 0)
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = run(capsys, "trace", folder / "csr.npz", "--function", "cosh")
    assert (code, err.count("\n")) == (2, 1)


def test_as_a_module_and_as_a_script(folder):
    for command in ([sys.executable, "-m", "specdens"], [f"{sys.prefix}/bin/specdens"]):
        done = subprocess.run(
            [*command, "logdet", str(folder / "csr.npz"), "--json"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout)["logabsdet"] == pytest.approx(TRUTH)


def test_warnings_of_the_caller_are_restored(folder, capsys):
    before = list(warnings.filters)
    run(capsys, "logdet", folder / "csr.npz")
    assert list(warnings.filters) == before


FUZZ = """
import random, sys, warnings
from random import randrange
from pathlib import Path
from specdens.cli import main

warnings.simplefilter("ignore")
random.seed(0)
folder = Path(sys.argv[1])
for name in ("csr.npz", "plain.npz", "dense.npy", "sparse.mtx", "dense.mtx"):
    original = (folder / name).read_bytes()
    for k in range(120):
        altered = bytearray(original)
        for _ in range(random.choice([1, 1, 2, 5])):
            # Headers lie in the first bytes, and the directory of an archive in the last.
            place = random.choice([randrange(128), randrange(10**6), -randrange(300)])
            altered[place % len(altered)] = random.randrange(256)
        if random.random() < 0.15:
            del altered[random.randrange(len(altered)):]
        path = folder / f"altered-{k}-{name}"
        path.write_bytes(bytes(altered))
        print("code", main(["info", str(path)]), path.name, flush=True)
"""


def test_altered_files_give_an_answer_or_one_line_with_their_name(tmp_path):
    small = laplacian(3, 3)
    sp.save_npz(tmp_path / "csr.npz", small)
    sp.save_npz(tmp_path / "plain.npz", small, compressed=False)
    np.save(tmp_path / "dense.npy", small.toarray())
    scipy.io.mmwrite(tmp_path / "sparse.mtx", small)
    scipy.io.mmwrite(tmp_path / "dense.mtx", small.toarray())
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout.splitlines()[-1:], done.stderr[-2000:])
    codes = [line.split() for line in done.stdout.splitlines() if line.startswith("code ")]
    assert len(codes) == 600
    refused = [name for _, code, name in codes if code == "2"]
    assert len(codes) == len(refused) + sum(code == "0" for _, code, _ in codes)
    errors = done.stderr.splitlines()
    assert len(errors) >= len(refused)
    assert all(line.startswith("specdens: ") for line in errors)
    assert refused, "no alteration was noticed"
    assert all(any(name in line for line in errors) for name in refused)


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("entry", ["3c", "3 4", "", "0x1", "1e", "--1"])
def test_a_line_of_a_matrix_market_file_that_is_no_entry(tmp_path, entry, end):
    path = tmp_path / "s.mtx"
    path.write_text(MTX + f"1 1 1\n1 1 {entry}{end}")
    with pytest.raises(MatrixFileError, match=r"s\.mtx: line 3 is '1 1"):
        read_matrix(path)


def test_a_matrix_market_file_needs_no_last_newline(tmp_path):
    path = tmp_path / "s.mtx"
    path.write_text(MTX + "% a comment\n2 2 2\n\n1 1 3\n2 2 -.5e1")
    np.testing.assert_array_equal(read_matrix(path).toarray(), np.diag([3.0, -5.0]))


def test_a_plot_without_matplotlib_is_refused_before_any_work(folder, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("specdens.cli.read_matrix", None)  # would fail if it were called
    code, out, err = run(capsys, "logdet", folder / "csr.npz", "--plot", folder / "a.png")
    assert (code, out) == (2, "")
    assert err == "specdens: --plot needs matplotlib: pip install 'specdens[plot]'\n"


def test_a_reader_that_has_seen_enough_is_no_error(folder):
    command = f"{sys.executable} -m specdens dos {folder / 'csr.npz'} --json | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_values_stand_in_one_column(folder, capsys):
    _, out, _ = run(capsys, "info", folder / "csr.npz")
    names = [line.split()[0] for line in out.splitlines()]
    width = max(map(len, names))
    for line in out.splitlines():
        assert line[width] == " " != line[width + 1]

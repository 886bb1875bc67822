"""The commands `predict` and `export`, on what `train` saves."""

import csv
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxnn.cli import saved
from jaxnn.cli.arguments import parser
from jaxnn.cli.job import prepare


@pytest.fixture
def new_run():
    """A function that saves a network with its initial weights as `train` does; it returns the job, and the weights by path."""

    def new_run(*argv):
        job = prepare(parser().parse_args([*argv, "--out", "run"]))
        params, state = job.model.init(jax.random.key(0), job.train.x[:1])
        saved.save(job, SimpleNamespace(params=params, state=state))
        return job, saved.flat(params, state)

    return new_run


def mlp(job, weights, x):
    """The outputs of a network of tanh layers, in float64."""
    x = (x - job.train.x.mean(0, dtype=np.float64)) / job.train.x.std(0, dtype=np.float64)
    layers = [path.removesuffix("/kernel") for path in weights if path.endswith("/kernel")]
    for layer in sorted(layers, key=lambda layer: (layer.endswith("output"), layer)):
        x = x @ np.float64(weights[f"{layer}/kernel"]) + weights[f"{layer}/bias"]
        x = x if layer.endswith("output") else np.tanh(x)
    return x


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def test_classes_of_a_table(run, new_run):
    job, weights = new_run("--data", "iris")
    expected = softmax(mlp(job, weights, job.test.x))
    code, out = run("predict", "run")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["sample", "prediction", "probability", "true"]
    first = expected[0].argmax()
    assert lines[1].split() == ["0", job.data.classes[first], f"{expected[0, first]:.3f}", job.data.classes[job.test.y[0]]]
    wrong = (expected.argmax(-1) != job.test.y).sum()
    assert lines[6:8] == ["and 25 more", f"accuracy {1 - wrong / 30:.2%} ({wrong} of 30 wrong)"]
    assert max(map(len, lines)) <= 60
    with open("run/predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction"] for row in rows] == [job.data.classes[i] for i in expected.argmax(-1)]
    shares = [[float(row[f"probability of {name}"]) for name in job.data.classes] for row in rows]
    np.testing.assert_allclose(shares, expected, rtol=2e-5)

    np.save("x.npy", job.test.x[:3])
    np.savez("x.npz", x=job.test.x[:3].astype(np.float64), y=job.test.y[:3])
    np.savetxt("x.csv", job.test.x[:3], delimiter=",", header="a,b,c,d", comments="", fmt="%.9g")
    np.savetxt("bare.csv", job.test.x[:3], delimiter=",", fmt="%.9g")
    for file in ("x.npy", "x.npz", "x.csv", "bare.csv"):
        code, out = run("predict", "run", file, "--out", "p.npy")
        assert code == 0 and ("accuracy" in out) == (file == "x.npz")
        np.testing.assert_allclose(np.load("p.npy"), expected[:3], rtol=2e-5)


def test_numbers_in_the_original_units(run, new_run):
    job, weights = new_run("--data", "diabetes")
    y = job.train.y.astype(np.float64)
    expected = mlp(job, weights, job.test.x)[:, 0] * y.std() + y.mean()
    code, out = run("predict", "run", "--out", "p.npy")
    assert code == 0 and re.search(r"R² -?[\d.]+\n", out)
    np.testing.assert_allclose(np.load("p.npy"), expected, rtol=1e-4)
    assert out.splitlines()[1].split() == ["0", f"{expected[0]:.4g}", f"{job.test.y[0, 0]:.4g}"]


@pytest.mark.slow
@pytest.mark.parametrize("argv", ["--data digits", "--data digits --model rnn", "--data diabetes", "--data iris --dropout 0.2"])
def test_an_exported_program_is_the_network(run, new_run, argv):
    pytest.importorskip("flatbuffers")
    pytest.importorskip("safetensors")
    job, weights = new_run(*argv.split())
    code, out = run("export", "run", "m.stablehlo", "w.npz", "w.safetensors")
    assert code == 0 and "program: m.stablehlo\nweights: w.npz\nweights: w.safetensors\n" in out
    run("predict", "run", "--out", "p.npy")
    with open("m.stablehlo", "rb") as file:
        program = jax.export.deserialize(bytearray(file.read()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    np.testing.assert_allclose(program.call(job.test.x), np.load("p.npy"), rtol=1e-4, atol=1e-6)
    assert program.call(job.test.x[:2]).shape[0] == 2
    from safetensors.numpy import load_file

    for read in (dict(np.load("w.npz")), load_file("w.safetensors")):
        assert read.keys() == weights.keys()
        for path, leaf in weights.items():
            np.testing.assert_array_equal(read[path], leaf)


@pytest.mark.slow
def test_what_a_run_trained_is_what_predict_reads(run):
    trained = run("--data", "wine", "--epochs", "3", "--quiet")[1]
    assert "network: jaxnn-run" in trained
    score = re.search(r"test accuracy (.*)\n", trained)[1]
    assert f"\naccuracy {score}\n" in run("predict", "jaxnn-run")[1]


@pytest.mark.slow
def test_images_without_their_last_axis_and_flat_ones(run, new_run):
    job, _ = new_run("--data", "digits", "--model", "mlp")
    results = []
    for x in (job.test.x[:4], job.test.x[:4, :, :, 0], job.test.x[:4].reshape(4, 64)):
        np.save("x.npy", x)
        assert run("predict", "run", "x.npy", "--out", "p.npy")[0] == 0
        results.append(np.load("p.npy"))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_errors_are_one_sentence(error, new_run, tmp_path):
    assert "gone has no file model.npz; expected the folder of a run" in error("predict", "gone")
    assert "the following arguments are required: RUN" in error("export")
    assert "unknown argument '--outs'; did you mean '--out'?" in error("predict", "run", "--outs", "x")
    new_run("--data", "iris")
    (tmp_path / "bad.csv").write_text("a,b,c,d\n1,2,3,4\n1,2,3\n")
    (tmp_path / "words.csv").write_text("1,2,3,4\n1,2,3,x\n")
    (tmp_path / "header.csv").write_text("a,b,c,d\n")
    (tmp_path / "bad.npy").write_text("no array")
    np.save("wide.npy", np.zeros((2, 5)))
    np.save("scalar.npy", np.zeros(()))
    np.save("nan.npy", np.full((2, 4), np.nan))
    np.savez("labels.npz", x=np.zeros((2, 4)), y=np.array([0, 3]))
    np.savez("short.npz", x=np.zeros((2, 4)), y=np.array([0]))
    np.savez("other.npz", z=np.zeros((2, 4)))
    for argv, words in {
        "gone.npy": "gone.npy",
        "x.txt": "x.txt: samples are read from a file .npy, .npz or .csv",
        "bad.npy": "bad.npy is not an array of numbers",
        "wide.npy": r"wide.npy has samples of shape \[5\]; the network takes \[4\]",
        "scalar.npy": "scalar.npy has no samples",
        "nan.npy": "nan.npy.*8 values that are NaN",
        "bad.csv": "bad.csv, line 3: 3 values, but 4 in the lines before",
        "words.csv": "words.csv, line 2: .*'x'; expected numbers separated by commas",
        "header.csv": "header.csv has no samples",
        "labels.npz": "labels.npz: y are not labels from 0 to 2",
        "short.npz": r"short.npz: y has shape \[1\]; expected one target for each of 2 samples",
        "other.npz": "other.npz has no array x; its arrays: z",
        "--out p.txt": "--out p.txt: predictions are written to a file .csv or .npy",
        "--out run": "--out run: predictions are written",
    }.items():
        assert re.search(words, error("predict", "run", *argv.split())), argv
    assert "m.onnx: a network is exported to files .stablehlo, .safetensors, .npz" in error("export", "run", "m.onnx")
    arrays = dict(np.load("run/model.npz"))
    bias = {"params/output/bias": np.zeros(7, np.float32)}
    for damage in (bias, {"run": np.array("{}")}, {"run": np.array('{"format": 2}')}):
        np.savez("run/model.npz", **(arrays | damage))
        assert "model.npz is damaged, or not what train of this version of jaxnn writes" in error("predict", "run")
    (tmp_path / "run" / "model.npz").write_bytes(b"PK")
    assert "model.npz is not an .npz file" in error("predict", "run")


@pytest.mark.parametrize("command", ["predict", "export"])
def test_help(run, capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit) as caught:
        run(command, "--help")
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert text.startswith(f"usage: python -m jaxnn {command} RUN [FILE")
    assert max(map(len, text.splitlines())) <= 60

"""Histories and logs of runs, read back with independent readers."""

import csv
import errno
import json
import math
import os
import re
import resource
import struct
import sys
import xml.etree.ElementTree as ElementTree
from contextlib import contextmanager

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jaxnn.plots import figures as plots
from jaxnn.train.history import History
from jaxnn.train.rows import packed, replace_file, unpacked
from jaxnn.train.table_files import csv_log, jsonl_log, tensorboard_log

NAN, INF = math.nan, math.inf
ROWS = [{"epoch": n, "loss": 0.1 * n, **({"val_loss": 1 / 3 / n} if n % 2 == 0 else {}), "seconds": 0.5} for n in range(1, 6)]


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


LOGS = {"csv": (csv_log, read_csv), "jsonl": (jsonl_log, read_jsonl)}


def write(make, path, rows):
    log = make(path)
    for row in rows:
        log.write(row)
    log.close()


# --- the table --------------------------------------------------------------------------------------------------------


def test_column_order_does_not_depend_on_the_order_of_insertion():
    seen = "compile_seconds val_f1 seconds accuracy val_loss learning_rate f1 samples_per_second step loss val_extra epoch"
    row = dict.fromkeys(re.findall(r"\w+", seen), 1)
    ordered = ["epoch", "step", "loss", "accuracy", "f1", "val_loss", "val_f1", "val_extra", "learning_rate"]
    ordered += ["seconds", "samples_per_second", "compile_seconds"]
    history = History([{"seconds": 1}, row])
    assert list(history) == list(history.keys()) == list(history.rows[1]) == ordered
    assert len(history) == len(ordered)
    assert history.get("no") is None
    with pytest.raises(KeyError, match="no column 'los'; its columns: epoch, step, loss"):
        history["los"]


def test_missing_cells_are_nan_in_columns_and_absent_from_rows():
    history = History([{"loss": 1.0}, {"loss": NAN, "val_loss": 0.5}, {"val_loss": None}])
    np.testing.assert_array_equal(history["loss"], [1.0, NAN, NAN])
    np.testing.assert_array_equal(history["val_loss"], [NAN, 0.5, NAN])
    assert [list(row) for row in history.rows] == [["loss"], ["loss", "val_loss"], []]


def test_reading_returns_copies():
    given_row = {"loss": 1.0}
    history = History([given_row])
    given_row["loss"] = 2.0
    history["loss"].append(3.0)
    history.rows[0]["loss"] = 4.0
    history.rows.clear()
    assert history == {"loss": [1.0]}
    with pytest.raises(TypeError):
        history["loss"] = []


def test_cells_are_python_numbers():
    history = History(
        [{"a": np.float32(0.1), "b": jnp.int32(2), "c": np.True_, "d": jnp.bfloat16(1.5), "e": np.array(2.5), "f": "x"}]
    )
    assert [type(value) for value in history.rows[0].values()] == [float, int, bool, float, float, str]
    assert history["a"] == [0.10000000149011612]
    for bad in ([1.0], np.zeros(3), {}, 1j):
        with pytest.raises(TypeError, match=r"one number or string per column, got .* for 'accuracy'"):
            history.append({"accuracy": bad})
    with pytest.raises(TypeError, match="have strings as names, got 3"):
        history.append({3: 1.0})
    assert len(history.rows) == 1


def test_same_as_is_exact_and_ignores_times():
    base = [{"epoch": 1, "loss": 0.1, "x": NAN, "seconds": 1.0}, {"epoch": 2, "loss": -0.0}]
    history = History(base)
    assert history.same_as(history)
    times = {"seconds": 9.0, "compile_seconds": 3.0, "samples_per_second": 1.0}
    assert history.same_as(History([{**base[0], **times, "x": float("nan")}, base[1]]))
    assert not history.same_as(History(base[:1]))
    for other in (
        {"loss": 0.0},
        {"loss": -0.0, "y": 1.0},
        {"loss": math.nextafter(-0.0, 1)},
        {"loss": "-0x0.0p+0"},
        {"epoch": 2.0},
    ):
        assert not history.same_as(History([base[0], {**base[1], **other}])), other
    assert not history.same_as(History([{**base[0], "x": INF}, base[1]]))


# --- files ------------------------------------------------------------------------------------------------------------

cells = st.one_of(
    st.floats(), st.integers(), st.booleans(), st.text().filter(lambda t: t not in ("NaN", "Infinity", "-Infinity"))
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(st.text(), cells, max_size=4), max_size=5))
def test_json_lines_round_trip(tmp_path, rows):
    history = History(rows)
    history.to_jsonl(tmp_path / "h.jsonl")
    again = History.from_jsonl(tmp_path / "h.jsonl")
    assert again.same_as(history) and len(again.rows) == len(history.rows)
    assert list(again) == list(history)


def test_json_is_strict(tmp_path):
    History([{"a": NAN, "b": INF, "c": -INF, "d": -0.0}]).to_jsonl(tmp_path / "h.jsonl")

    def refuse(name):
        raise AssertionError(name)

    assert json.loads((tmp_path / "h.jsonl").read_text(), parse_constant=refuse) == {
        "a": "NaN",
        "b": "Infinity",
        "c": "-Infinity",
        "d": 0.0,
    }


@pytest.mark.parametrize("text", ["{}\n{\n{}\n", "[1]\n", "{", '{"a": [1]}\n'])
def test_other_files_are_rejected_as_histories(tmp_path, text):
    (tmp_path / "h.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"h.jsonl is not a history in JSON lines: "):
        History.from_jsonl(tmp_path / "h.jsonl")


def test_csv_has_full_precision(tmp_path):
    values = np.random.default_rng(0).standard_normal(50) * 10.0 ** np.arange(-25, 25)
    rows = [{"epoch": n, "loss": value, 'a,"b"\n': n} for n, value in enumerate(values)]
    History([*rows, {"epoch": 50, "loss": NAN}, {"epoch": 51, "loss": -INF}, {"epoch": 52}]).to_csv(tmp_path / "h.csv")
    read = read_csv(tmp_path / "h.csv")
    assert [row["loss"] for row in read[:50]] == values.tolist()
    assert math.isnan(read[50]["loss"]) and read[51] == {"epoch": 51, "loss": -INF} and read[52] == {"epoch": 52}
    assert list(read[0]) == ["epoch", "loss", 'a,"b"\n']


def test_pandas_agrees(tmp_path):
    pandas = pytest.importorskip("pandas")
    history = History([*ROWS, {"epoch": 6, "loss": INF}, {"epoch": 7, "loss": NAN}])
    frame = history.to_pandas()
    assert list(frame) == list(history) and frame["epoch"].dtype == np.int64
    history.to_csv(tmp_path / "h.csv")
    history.to_jsonl(tmp_path / "h.jsonl")
    from_csv = pandas.read_csv(tmp_path / "h.csv")
    from_json = pandas.read_json(tmp_path / "h.jsonl", lines=True, precise_float=True)
    for name in history:
        np.testing.assert_array_equal(frame[name], history[name])
        np.testing.assert_allclose(from_csv[name], history[name], rtol=1e-15)
        np.testing.assert_allclose(from_json[name], history[name], rtol=1e-15)


def test_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        History(ROWS).to_pandas()


def test_a_file_is_replaced_atomically(tmp_path, monkeypatch):
    path = tmp_path / "file"
    (tmp_path / "link").symlink_to(path)
    replace_file(tmp_path / "link", "old")

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", fail)
        replace_file(path, "new")
    assert path.read_text() == "old" and (tmp_path / "link").is_symlink()
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "link"}


# --- logs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOGS)
def test_a_log_has_all_rows_after_each_write(tmp_path, kind):
    make, read = LOGS[kind]
    path = tmp_path / "deep" / "er" / f"log.{kind}"
    log = make(path)
    assert path.parent.is_dir() and not list(path.parent.iterdir())
    for count, row in enumerate(ROWS, 1):
        log.write(row)
        assert read(path) == ROWS[:count]
    log.close()
    log.close()
    log.write({"epoch": 6, "accuracy": 1.0})
    assert read(path) == [*ROWS, {"epoch": 6, "accuracy": 1.0}]
    log.close()


def test_a_new_column_is_inserted_into_the_header(tmp_path):
    write(
        csv_log,
        tmp_path / "log.csv",
        [{"epoch": 1, "seconds": 1.0}, {"epoch": 2, "seconds": 1.0, "val_loss": 0.5, "loss": 0.1}],
    )
    assert (tmp_path / "log.csv").read_bytes() == b"epoch,loss,val_loss,seconds\n1,,,1.0\n2,0.1,0.5,1.0\n"


@pytest.mark.parametrize("kind", LOGS)
def test_resumed_runs_continue_a_log_and_new_runs_replace_it(tmp_path, kind):
    make, read = LOGS[kind]
    path = tmp_path / "log"
    write(make, path, ROWS)
    again = [{**row, "loss": 7.0} for row in ROWS[2:]]
    write(make, path, again)
    assert read(path) == [*ROWS[:2], *again]
    log = make(path)  # of a run that repeats epochs within one process
    for row in (*ROWS[3:], *ROWS[1:]):
        log.write(row)
    log.close()
    assert read(path) == ROWS
    write(make, path, [{"epoch": 1, "other": 1.0}])
    assert read(path) == [{"epoch": 1, "other": 1.0}]


def test_existing_cells_are_not_reformatted(tmp_path):
    (tmp_path / "log.csv").write_text('\ufeffepoch,loss,note\r\n1,0.50,"a\nb"\r\n2.0,1e-1,\r\n\r\n3,4,5\r\n', "utf-8")
    write(csv_log, tmp_path / "log.csv", [{"epoch": 3, "loss": 0.25}])
    assert (tmp_path / "log.csv").read_bytes() == b'epoch,loss,note\n1,0.50,"a\nb"\n2.0,1e-1,\n3,0.25,\n'


@pytest.mark.parametrize("kind", LOGS)
def test_a_log_truncated_at_any_byte_is_repaired(tmp_path, kind):
    make, read = LOGS[kind]
    path = tmp_path / "log"
    write(make, path, ROWS[1:2])  # the first row is written atomically
    first = path.stat().st_size
    write(make, path, ROWS[1:4])
    whole = path.read_bytes()
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        finished = whole[:end].count(b"}") if kind == "jsonl" else whole[:end].count(b"\n") - 1
        write(make, path, [ROWS[4]])
        assert read(path) == [*ROWS[1 : 1 + finished], ROWS[4]], end


@contextmanager
def file_size_limit(size):
    """Limit the size of files to `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", LOGS)
@pytest.mark.parametrize("extra", [{}, {"late": 1.0}])
def test_a_full_disk_loses_no_written_row(tmp_path, kind, extra):
    make, read = LOGS[kind]
    path = tmp_path / "log"
    log = make(path)
    for row in ROWS[:3]:
        log.write(row)
    with file_size_limit(path.stat().st_size + 5), pytest.raises(OSError) as caught:
        log.write({**ROWS[3], **extra})
    assert caught.value.errno == errno.EFBIG
    assert read_complete_rows(path, read) == ROWS[:3]
    log.write(ROWS[3])
    log.close()
    assert read(path) == ROWS[:4] and os.listdir(tmp_path) == ["log"]


def read_complete_rows(path, read):
    whole = path.with_name("whole")
    whole.write_bytes(path.read_bytes()[: path.read_bytes().rfind(b"\n") + 1])
    rows = read(whole)
    whole.unlink()
    return rows


@pytest.mark.parametrize("make", [csv_log, jsonl_log])
def test_unwritable_paths_are_rejected_at_once(tmp_path, make):
    (tmp_path / "file").write_text("")
    for bad in (tmp_path, tmp_path / "file" / "log", "/dev/null", "/proc/log"):
        with pytest.raises(OSError, match=rf"{make.__name__} cannot write .*; choose a path where files can be created"):
            make(bad)
    assert os.listdir(tmp_path) == ["file"]


FOREIGN = {
    "csv": ["name,age\n", "precious", "epoch,loss\n1,2,3\n", "epoch\nfirst\n"],
    "jsonl": ["precious", "[]\n", '{"a": 1}\n'],
}


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind, texts in FOREIGN.items() for text in (*texts, b"\xff\xfe\x00\n")]
)
def test_other_files_are_not_overwritten(tmp_path, kind, text):
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "mine").write_bytes(content)
    with pytest.raises(ValueError, match=r"mine is not the log of a run \(.+\); choose another path or remove the file first"):
        LOGS[kind][0](tmp_path / "mine")
    assert (tmp_path / "mine").read_bytes() == content


def test_a_row_needs_an_epoch(tmp_path):
    for bad in ({}, {"epoch": 1.0}, {"epoch": True}):
        with pytest.raises(ValueError, match="needs the number of its epoch"):
            csv_log(tmp_path / "log").write(bad)


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_scalars(folder):
    """What TensorBoard shows: files are read in the order of their names, and a start event discards its and later steps."""
    from tensorboardX.proto.event_pb2 import Event

    shown = {}
    for path in sorted(folder.iterdir()):
        data, events = path.read_bytes(), []
        while data:
            size, check = struct.unpack("<QI", data[:12])
            assert check == crc32c(data[:8]) and struct.unpack("<I", data[12 + size : 16 + size])[0] == crc32c(
                data[12 : 12 + size]
            )
            events.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
        assert events[0].file_version == "brain.Event:2"
        for event in events[1:]:
            if event.HasField("session_log"):
                assert event.session_log.status == event.session_log.START
                shown = {key: value for key, value in shown.items() if key[1] < event.step}
            for value in event.summary.value:
                shown[value.tag, event.step] = value.simple_value
    return shown


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    folder = tmp_path / "deep" / "tensorboard"
    rows = [
        {"epoch": n, "step": 9 * n, "loss": 1 / n, "note": "x", **({"val_loss": NAN} if n % 2 == 0 else {})}
        for n in range(1, 7)
    ]
    log = tensorboard_log(folder)
    for count, row in enumerate(rows, 1):
        log.write(row)
        assert read_scalars(folder / "train") == {("loss", n): float(np.float32(1 / n)) for n in range(1, count + 1)}
    log.close()
    assert sorted(os.listdir(folder)) == ["train", "validation"]
    assert [key for key, value in read_scalars(folder / "validation").items() if math.isnan(value)] == [
        ("loss", 2),
        ("loss", 4),
        ("loss", 6),
    ]

    log = tensorboard_log(folder)  # resumed after epoch 2; then epoch 3 is repeated
    for epoch in (3, 4, 3):
        log.write({"epoch": epoch, "loss": 9.0})
    log.close()
    assert read_scalars(folder / "train") == {("loss", 1): 1.0, ("loss", 2): 0.5, ("loss", 3): 9.0}
    assert list(read_scalars(folder / "validation")) == [("loss", 2)]
    with pytest.raises(OSError, match="tensorboard_log cannot write"):
        tensorboard_log(next((folder / "train").iterdir()))


def test_tensorboard_after_a_full_disk(tmp_path):
    pytest.importorskip("tensorboardX")
    log = tensorboard_log(tmp_path)
    log.write({"epoch": 1, "loss": 1.0})
    (only,) = (tmp_path / "train").iterdir()
    size = only.stat().st_size
    with file_size_limit(size + 5), pytest.raises(OSError, match="no space left in .* for a row"):
        log.write({"epoch": 2, "loss": 1.0})
    log.write({"epoch": 2, "loss": 2.0})
    log.close()
    only.write_bytes(only.read_bytes()[:size])  # a reader stops at a truncated record
    assert read_scalars(tmp_path / "train") == {("loss", 1): 1.0, ("loss", 2): 2.0}


def test_without_tensorboardx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match="pip install tensorboardX"):
        tensorboard_log(tmp_path)


# --- plots and tables ----------------------------------------------------------------------------------------------


def curves(axes):
    return [(line.get_label(), line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines]


def test_plot():
    pytest.importorskip("matplotlib")
    history = History(
        {
            "epoch": n,
            "step": n,
            "loss": 10.0**-n,
            "accuracy": 0.001 * 10.0**n if n < 4 else NAN,
            **({"val_loss": 1.0 / n, "val_only": 2.0} if n != 2 else {}),
            "learning_rate": 0.5 / n,
            "seconds": 1.0 / n,
            "empty": INF,
        }
        for n in range(1, 5)
    )
    loss, accuracy, only, rate = history.plot().axes
    assert [axes.get_title(loc="left") for axes in (loss, accuracy, only, rate)] == [
        "loss",
        "accuracy",
        "val_only",
        "learning_rate",
    ]
    assert curves(loss) == [
        ("training", [1, 2, 3, 4], history["loss"]),
        ("validation", [1, 3, 4], [1.0, 1 / 3, 0.25]),
    ]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation"]
    assert curves(accuracy)[0][1] == [1, 2, 3] and accuracy.get_legend() is None
    assert [axes.get_yscale() for axes in (loss, accuracy, only, rate)] == ["log", "linear", "linear", "linear"]
    with pytest.raises(ValueError, match="nothing to plot"):
        History([{"epoch": 1, "loss": NAN}]).plot()


def test_a_constant_learning_rate_is_not_plotted():
    pytest.importorskip("matplotlib")
    figure = History({"epoch": n, "loss": 0.01 * n, "learning_rate": 0.1, "skipped": 0} for n in range(1, 101)).plot()
    (loss,) = figure.axes
    assert loss.get_yscale() == "linear"  # exactly two decades


def test_curves_of_plain_dicts():
    pytest.importorskip("matplotlib")
    axes = plots.new_figure(3, 3).subplots()
    plots.plot_curves(axes, {"loss": [0.0, 1.0], "val_loss": [NAN, 1e9]}, "loss", log=True)
    assert curves(axes) == [("training", [1, 2], [0.0, 1.0]), ("validation", [2], [1e9])]
    assert axes.get_yscale() == "linear"  # a logarithmic axis cannot show 0


def long_history():
    return History(
        {"epoch": n, "loss": abs(n - 20) + 0.5, "accuracy": 1.0 / n, "<b>&": 1.0, "val_mystery": float(n), "seconds": 12345.678}
        for n in range(1, 41)
    )


def test_repr():
    lines = repr(long_history()).splitlines()
    assert lines[0] == "40 epochs, * best"
    assert [line.split()[0] for line in lines[1:]] == ["epoch", "1", "2", "3", "⋯", "20", "⋯", "38", "39", "40"]
    assert [line for line in lines if "*" in line[1:]] == lines[:1] + [
        lines[2],
        lines[6],
    ]  # only in columns whose direction is known
    assert "0.5*" in lines[6] and " 1* " in lines[2] and "12,346" in lines[2]
    assert repr(History()) == "no epochs yet"
    assert "*" not in repr(History(ROWS[:1]))
    five = repr(History({"epoch": n, "loss": 1.0} for n in range(1, 8)))
    assert "⋯" not in five  # dots for one row would take as much space as the row


def test_repr_of_many_columns_is_truncated(monkeypatch):
    history = History([{"epoch": 1, **{f"metric_{n}": 0.5 for n in range(30)}, "seconds": 1.0}])
    for width in (120, 60):
        monkeypatch.setattr("jaxnn.train.history.terminal_width", lambda _, width=width: width)
        text = repr(history)
        assert max(map(len, text.splitlines())) <= width
        rest = text.partition("\nand the columns metric_")[2]
        assert rest.endswith("seconds") and "metric_29" in rest


def test_html():
    tree = ElementTree.fromstring(long_history()._repr_html_())
    (head,), body = tree.iter("thead"), next(tree.iter("tbody"))
    assert [cell.text for cell in head.iter("th")] == ["epoch", "loss", "accuracy", "<b>&", "val_mystery", "seconds"]
    assert [row[0].text for row in body] == ["1", "2", "3", "⋯", "20", "⋯", "38", "39", "40"]
    marked = {(row[0].text, cell.text) for row in body for cell in row if "background" in cell.get("style")}
    assert marked == {("20", "0.5"), ("1", "1")}
    assert "no epochs" in History()._repr_html_()


# --- rows in checkpoints ---

CELLS = st.one_of(st.floats(), st.integers(-(2**70), 2**70), st.booleans(), st.text(max_size=3))


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.sampled_from(["epoch", "loss", "f1"]), CELLS, min_size=1), max_size=4))
@example([{"epoch": 1, "loss": -0.0}, {"epoch": 2**63, "loss": NAN}])
@example([{"epoch": -(2**63)}, {"epoch": 2}])
def test_packed_rows_are_the_same_bit_for_bit(rows):
    again = unpacked(json.loads(json.dumps(packed(rows))))
    assert len(again) == len(rows) and History(again).same_as(History(rows))


# --- long runs ---


def test_a_run_reads_no_more_of_its_history_the_longer_it_is(monkeypatch):
    """Each epoch costs the same: the rows of the earlier ones are not read again."""
    import jax
    import optax

    import jaxnn as nn

    reads, rows = [], History.rows.fget
    monkeypatch.setattr(History, "rows", property(lambda self: reads.append(1) or rows(self)))
    x = np.ones((4, 1), np.float32)
    watch = nn.callbacks.Callback("watch", on_row=lambda row: None)
    options = {"loss": nn.losses.mse, "optimizer": optax.sgd(0.1), "key": jax.random.key(0), "progress": True}
    result = nn.fit(nn.dense(1), (x, x), **options, epochs=300, callbacks=[watch])
    assert len(reads) <= 1
    assert result.history.last == result.history.rows[-1] and len(result.history["loss"]) == 300


@pytest.mark.slow
def test_a_hundred_thousand_epochs():
    import jax
    import optax

    import jaxnn as nn

    x = np.ones((4, 1), np.float32)
    options = {"loss": nn.losses.mse, "optimizer": optax.sgd(0.1), "key": jax.random.key(0), "progress": False}
    history = nn.fit(nn.dense(1), (x, x), **options, epochs=100_000).history
    assert history["epoch"] == list(range(1, 100_001))

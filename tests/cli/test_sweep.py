"""The command `sweep`, from the grid to the printed table, the CSV file and the picture."""

import re

import pytest

import jaxnn as nn


@pytest.mark.slow
def test_a_sweep_prints_its_table_and_writes_picture_and_csv(run, tmp_path):
    argv = ["sweep", "--data", "iris", "--epochs", "4", "--seeds", "2"]
    argv += ["--grid", "learning_rate=0.01,0.0001", "--grid", "batch-size=16,32"]
    code, out = run(*argv)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["learning_rate", "batch_size", "loss", "accuracy", "val_loss", "val_accuracy"]
    assert lines[1].startswith("*  0.01 ")
    assert len([line for line in lines if " ± " in line]) == 4
    assert re.search(r"its best network reaches loss [\d.]+, accuracy [\d.]+ on the test part", out)
    table = (tmp_path / "jaxnn-run" / "sweep.csv").read_text().splitlines()
    assert len(table) == 9
    assert table[0].startswith("learning_rate,batch_size,seed,loss,accuracy,val_loss,val_accuracy,epoch,epochs,status")
    assert (tmp_path / "jaxnn-run" / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_only_another_sweep_is_attributed_to_resume(run, error, monkeypatch):
    argv = ("sweep", "--data", "iris", "--epochs", "1", "--checkpoint", "folder", "--resume", "--grid")
    run(*argv, "learning_rate=0.01")
    message = error(*argv, "learning_rate=0.02", output=True)
    assert re.search("--resume cannot continue from folder: .*another", message)

    def sweep(*args, **options):
        raise ValueError("the grid has too many values")

    monkeypatch.setattr(nn, "sweep", sweep)
    with pytest.raises(ValueError, match="^the grid has too many values$"):
        run(*argv, "learning_rate=0.01")

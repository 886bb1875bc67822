"""What the tests of the command line share: an empty working directory, and runs of the command line in this process."""

import pytest

from jaxnn.cli import main


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path_factory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "compiled"))  # of other processes


@pytest.fixture
def run(capsys):
    """A function that runs the command line and returns the exit code and what was printed."""

    def run(*argv):
        code = main(list(argv))
        return code, capsys.readouterr().out

    return run


@pytest.fixture
def error(capsys):
    """A function that runs the command line, which must reject its arguments, and returns the message.

    `output` says whether lines may have been printed before.
    """

    def error(*argv, output=False):
        with pytest.raises(SystemExit) as caught:
            main(list(argv))
        captured = capsys.readouterr()
        assert caught.value.code == 2
        assert output or captured.out == ""
        message = captured.err.splitlines(keepends=True)[-1]
        assert output or message == captured.err
        assert message.startswith("jaxnn: error: ") and message.endswith("\n")
        return message

    return error

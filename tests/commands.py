"""The command line as typed, without the cost of a process of its own."""

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest import mock

from licm import cli


@dataclass(frozen=True)
class Done:
    """What a command left: its exit status and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def licm(*arguments: object) -> Done:
    """Types `licm ARGUMENTS`; a traceback shows as the exception itself."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["licm", *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            return Done(end.code if isinstance(end.code, int) else 1, out.getvalue(), err.getvalue())
    raise AssertionError("main returned instead of exiting")


def refused(*arguments: object, code: int = 1) -> str:
    """Types what is refused: one line on the error output, nothing else; returns that line."""
    done = licm(*arguments)
    assert (done.returncode, done.stdout) == (code, ""), done
    assert done.stderr.startswith("licm: error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr

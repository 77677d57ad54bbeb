"""Between the commands and the person: warnings and errors, a line each, and exit codes."""

import io
import logging
import os
import sys
from typing import Any, NoReturn

import typer

from licm.checks import is_out_of_memory


def log(*, quiet: bool = False) -> None:
    """Shows what the library says of its work, a line each: warnings, and unless quiet what it downloads."""
    logger = logging.getLogger("licm")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("licm: %(message)s"))
    shown: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        known = record.getMessage() in shown
        shown.add(record.getMessage())
        return not known

    handler.addFilter(is_new)  # a run that is read twice is not warned of twice
    logger.handlers[:] = [handler]


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _one_line(super().format(record))


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Prints a line to the error output and ends the process."""
    typer.echo(message, err=True)
    raise SystemExit(code)


def run_app(app: typer.Typer) -> NoReturn:
    """Runs a command line; whatever goes wrong is one line (all of it with LICM_DEBUG=1)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    usage_error: Any = typer.BadParameter.__bases__[0]  # of click, which newer versions of typer carry inside
    try:
        code = app(prog_name="licm", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # who reads the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except usage_error as error:
        command = error.ctx.command_path if error.ctx else "licm"  # unknown while options are still being told apart
        fail(f"licm: error: {_one_line(error.format_message()).rstrip('.')} (see {command} --help)", code=2)
    except Exception as error:
        if os.environ.get("LICM_DEBUG") == "1":
            raise
        if isinstance(error, OSError) and error.strerror:
            place = f"{str(error.filename)!r}: " if error.filename else ""
            fail(f"licm: error: {place}{error.strerror.lower()}")
        if is_out_of_memory(error):
            fail("licm: error: not enough memory; take smaller images, or fewer or narrower experts")
        if isinstance(error, ValueError | TypeError | OSError):
            fail(f"licm: error: {_one_line(error)}")
        fail(f"licm: error: unexpected {type(error).__name__}: {_one_line(error)}; LICM_DEBUG=1 shows where")
    if code == 130:
        fail("licm: interrupted", code=130)
    sys.exit(code if isinstance(code, int) else 0)


def _one_line(error: object) -> str:
    """Words in a line, in which what would steer a terminal is spelt out: names of files may hold anything."""
    words = " ".join(str(error).split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in words)

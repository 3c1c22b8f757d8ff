"""The process around the commands: exit status 0 done, 1 a check failed, 2 the input was refused (one
sentence on stderr); no traceback reaches a user."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import typer

from edgekit.cli.common import app, clear
from edgekit.errors import EdgekitError
from edgekit.text import visible


def main(argv: list[str] | None = None) -> None:
    """Entry point: every error becomes one sentence on stderr and its exit status."""
    _prepare_process()
    try:
        code = app(args=argv, standalone_mode=False)
    except EdgekitError as e:
        code = _fail(str(e), e.exit_code)
    except typer.Exit as e:
        code = e.exit_code
    except typer.Abort:
        code = _fail("stopped", 130)
    except KeyboardInterrupt:
        code = _fail("stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except (MemoryError, RecursionError) as e:
        code = _fail(f"the input is too large to be handled here ({type(e).__name__})", 2)
    except Exception as e:  # the last line of defence: a bug of ours is still one sentence
        code = _unexpected(e)
    sys.exit(code if isinstance(code, int) else 0)


def _prepare_process() -> None:
    """A SIGTERM unwinds the stack, so that temporary folders go; file names that the locale cannot
    show are escaped rather than fatal."""
    import signal

    def stop(signum: int, _frame: Any) -> None:
        raise SystemExit(128 + signum)

    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, code: int) -> int:
    clear()
    sys.stderr.write("edgekit: " + visible(" ".join(message.split())) + "\n")
    return code


def _unexpected(e: Exception) -> int:
    if type(e).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(str(getattr(e, "format_message", lambda: e)()).rstrip() + "\n")
        return 2
    show = getattr(e, "show", None)  # the option parser's own errors: usage and one sentence
    if callable(show) and hasattr(e, "exit_code"):
        return _fail(str(getattr(e, "format_message", lambda: e)()) + " (see --help)", 2)
    import os
    import traceback

    if os.environ.get("EDGEKIT_TRACEBACK"):
        traceback.print_exc()
    where = traceback.extract_tb(e.__traceback__)[-1]
    return _fail(
        f"internal error: {type(e).__name__}: {e} (at {Path(where.filename).name}:{where.lineno}); "
        "set EDGEKIT_TRACEBACK=1 for the details",
        2,
    )

"""The errors a user can meet. Every package may import this module; it imports only a leaf.

Every message is one sentence that says what was wrong, where, and what would be accepted; the
command line prints it alone and exits with :attr:`EdgekitError.exit_code`.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.text import visible


class EdgekitError(Exception):
    """Base of every error that edgekit raises on purpose.

    ``exit_code`` is what the command line exits with: 2 means "the input was refused".
    """

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        # names come out of files that anyone may have written: a line break or an escape sequence
        # in one must not break the one-sentence contract, nor reach the terminal
        super().__init__(visible(str(message)))


class InputError(EdgekitError):
    """An argument, a data file or an option that cannot be used."""


class FormatError(InputError):
    """A model file that cannot be read: truncated, garbage, of another format, or inconsistent."""


class UnsupportedError(InputError):
    """A valid model that uses something edgekit (or the chosen target) does not implement.

    Names the nodes: ``UnsupportedError("node 'x' (FOO): ...")``. ``unsupported`` lists all of them
    as (node, operator type, reason) where the one who raises knows them all (readers do).
    """

    def __init__(self, message: str = "", unsupported: Sequence[tuple[str, str, str]] = ()) -> None:
        super().__init__(message)
        self.unsupported: tuple[tuple[str, str, str], ...] = tuple(unsupported)


class GraphError(InputError):
    """A graph that is not consistent: unknown tensors, shapes that do not fit, cycles."""


class DoesNotFitError(InputError):
    """The compiled model needs more flash or RAM than the target has; both numbers are named."""


class ToolchainError(EdgekitError):
    """A compiler, emulator or other external tool is missing, or failed."""


class DeviceError(EdgekitError):
    """A device could not be reached, or what ran on it failed (fault, hang, wrong answer)."""


class DeviceUnavailable(DeviceError):
    """A device that is unplugged, in use, hung or starting again: trying later may help."""


class CheckFailed(EdgekitError):
    """A check that was asked for did not hold (``verify`` found differing bytes)."""

    exit_code = 1

"""Errors and exit codes: each ends a command with one message, never with a traceback."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    ANSWER_IS_NO = 1
    """Checked, and the answer is no (``analyze``, ``plugins check``)."""
    USER_INPUT = 2
    """Config, arguments, data, a locked folder."""
    CHECKPOINT = 3
    """A checkpoint that does not verify."""
    NON_FINITE = 4
    """Training stopped itself: it went non-finite, or there was nothing to learn from."""
    OUT_OF_MEMORY = 5
    FINAL_STATE_NOT_SAVED = 6
    BUG = 70
    HUNG_UP = 129
    """Ended by SIGHUP (a closed terminal) after saving."""
    INTERRUPTED = 130
    """Ended by Ctrl-C after saving."""
    TERMINATED = 143
    """Ended by SIGTERM after saving."""


class DlmError(Exception):
    """Base of the errors a user can do something about. The message says where, what is wrong and what to do."""

    exit_code = ExitCode.USER_INPUT


class UserInputError(DlmError, ValueError):
    """The user's config, arguments or data cannot be used as they are."""


class ModelError(DlmError, ValueError):
    """A model or tokenizer that cannot be used as a diffusion language model, with the reason."""


class DataError(DlmError, ValueError):
    """A data set that cannot be found, read or used, with the reason."""


class CheckpointError(DlmError):
    """A checkpoint that is incomplete, damaged or made by another run."""

    exit_code = ExitCode.CHECKPOINT


class NonFiniteError(DlmError):
    """Loss or gradient was not finite too many times in a row."""

    exit_code = ExitCode.NON_FINITE


class NothingToLearnError(DlmError):
    """Rewards told no answers apart for too long."""

    exit_code = ExitCode.NON_FINITE


class LostProcessError(DlmError):
    """Another process of the run is gone, or was waited for too long."""

    exit_code = ExitCode.BUG


class OutOfMemoryError(DlmError):
    """The device ran out of memory, with the settings that need less."""

    exit_code = ExitCode.OUT_OF_MEMORY


class FinalStateNotSavedError(DlmError):
    """Training ended, but its result could not be written."""

    exit_code = ExitCode.FINAL_STATE_NOT_SAVED

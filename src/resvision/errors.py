"""Every error that a person can meet, one tree.

ResvisionError                something stopped the work; the message says what, which value, and what to do
├── InputError                what was given is wrong (exit status 2)
│   ├── SpecError             a network that cannot be built: unknown name, impossible shape
│   ├── RecipeError           a hyperparameter out of its range, or two that contradict each other
│   ├── DataError             a data set that cannot be used: no such folder, one class, an empty class
│   │   └── PictureError      one picture that cannot be read
│   ├── ClassifierError       a folder that is not what its header says
│   ├── RunError              a run folder that exists already, or that cannot be resumed
│   ├── StorageError          the disk is full, or a place cannot be read or written
│   └── MissingExtraError     an optional dependency that is not installed
├── DownloadError             data or weights that could not be fetched (exit status 2)
├── DivergedError             the loss became infinite or NaN (exit status 2)
├── ExportError               a network cannot be exported, or does not answer there as here (exit status 2)
└── Interrupted               a signal stopped a run after its state was saved (exit status 130 or 143)
Terminated                    SIGTERM, of the kind that Ctrl-C is of, so that nobody takes it for a mistake
"""

from __future__ import annotations

import signal


class ResvisionError(Exception):
    """Base of all errors here. `exit_status` is what the command line leaves with."""

    exit_status = 2


class InputError(ResvisionError):
    """What the caller gave is wrong."""


class SpecError(InputError):
    """A network that cannot be built as asked."""


class RecipeError(InputError):
    """A hyperparameter that is out of range or contradicts another."""


class DataError(InputError):
    """A data set that cannot be used as it is."""


class PictureError(DataError):
    """One picture that cannot be read; `name` says which."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[PictureError], tuple[str, str]]:
        # Worker processes send these home by pickle, which would call __init__ with the joined message alone.
        return PictureError, (self.name, self.reason)


class ClassifierError(InputError):
    """A folder that is not a classifier, or not the one its header describes."""


class RunError(InputError):
    """A run folder that cannot be used as asked."""


class StorageError(InputError):
    """A file or folder that cannot be read or written."""


class MissingExtraError(InputError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        how = f"pip install -c constraints.txt '.[{extra}]', in the checkout"
        super().__init__(f"{purpose} needs the package {package}: {how}")


class DownloadError(ResvisionError):
    """Data or weights that could not be fetched."""


class DivergedError(ResvisionError):
    """The loss is no longer a finite number; the message names the step."""


class ExportError(ResvisionError):
    """A network that cannot be converted, or that does not answer there as here, so that its file was not kept."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where it comes, so that what is half done is tidied up as after Ctrl-C."""


def signal_of(stop: KeyboardInterrupt) -> signal.Signals:
    """The signal that an exception stands for."""
    return signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT


class Interrupted(ResvisionError):
    """A signal stopped the run; its state is saved and the message says how to go on."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal_number  # the shell's convention: 130 for Ctrl-C, 143 for SIGTERM

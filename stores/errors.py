"""The errors a user can do something about; the console script turns them into its exit codes."""


class PinnerFormerError(Exception):
    """A failure whose message names the file, row or flag, says what was expected, and what to do."""

    exit_code = 1


class InputError(PinnerFormerError):
    """Something that was given to the job (a file, a row, a vector set, a model) cannot be used."""


class MissingPartitionError(InputError):
    """A day of the logs is not there."""


class StoreError(PinnerFormerError):
    """What the job owns (the root, a release, the key-value store) is unreachable, locked or not as it should be."""


class OvertakenError(StoreError):
    """Another command is ahead of this one: what it wrote is newer, and stays."""


class LeaseLostError(StoreError):
    """Another run took the root over while this one was thought dead; it must not touch anything any more."""


class UsageError(PinnerFormerError):
    """A flag or an argument is wrong."""

    exit_code = 2


class RefusedError(PinnerFormerError):
    """A gate refused the release; what was served before is still served."""

    exit_code = 3


class TrainingError(PinnerFormerError):
    """Training cannot go on; the last good checkpoint is kept."""

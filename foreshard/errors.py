"""The exceptions that foreshard raises: one small tree, each message with the offending value and the fix."""


class ForeshardError(Exception):
    """Base of every error that foreshard raises on purpose."""


class ConfigError(ForeshardError):
    """A value in `foreshard.yaml`, an option or an argument cannot be used."""


class BudgetError(ConfigError):
    """A memory budget is too small to make progress; the message names the bytes needed."""


class SourceError(ForeshardError):
    """The user's source files are missing, empty, changed since the snapshot, or lack a column."""


class StorageError(ForeshardError):
    """The object store could not do what was asked."""


class ObjectNotFoundError(StorageError):
    """There is no object under this key."""


class ObjectExistsError(StorageError):
    """A create-only put met an object with other content under its key."""


class ConflictError(StorageError):
    """A compare-and-swap lost: someone else replaced the object first."""


class AccessDeniedError(StorageError):
    """The store refused the credentials."""


class UnreachableError(StorageError):
    """The store's endpoint, bucket or folder cannot be reached."""


class CorruptDataError(ForeshardError):
    """Bytes do not match their checksum, digest or format."""


class LogError(ForeshardError):
    """An access log or epoch marker is malformed, missing or contradicts another."""


class PlanError(ForeshardError):
    """A layout plan is not an exact cover, violates a bound or names an unknown strategy."""


class DeadlineError(ForeshardError):
    """A wait passed its deadline; the message says what was awaited, from whom and for how long."""

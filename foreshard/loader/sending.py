"""Sending an order to another process, and naming what cannot be sent."""

import pickle
from typing import Any, Final

from foreshard.errors import ConfigError

UNSENT: Final = (pickle.PicklingError, AttributeError, TypeError)
"""What pickle raises for functions and classes that are not a module's, and for what has no pickled form."""


def pickled(what: object, **parts: object) -> bytes:
    """Pickle something for another process.

    Args:
        what: what goes there.
        parts: what of it the user has made, by what it is called in messages.

    Raises:
        ConfigError: a part cannot be pickled.
    """
    try:
        return pickle.dumps(what)
    except UNSENT as error:
        name_unsent(error, **parts)
        raise


def name_unsent(error: BaseException, **parts: Any) -> None:  # noqa: ANN401
    """Name the part of which pickling failed; return if it was none of them.

    Raises:
        ConfigError: it was one of these.
    """
    for name, part in parts.items():
        try:
            pickle.dumps(part)
        except UNSENT as cause:
            raise ConfigError(
                f"the {name} cannot be sent to workers: {cause}; make it of functions and classes that are defined at "
                "the top of a module, or read with num_workers=0"
            ) from error

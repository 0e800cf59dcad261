"""What is closed with a block: `with Loader(...) as loader`."""

from typing import Self


class Closing:
    """Something to close, also when a block ends in an error."""

    def close(self) -> None:
        """End what runs and free the memory."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

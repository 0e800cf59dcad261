"""What is closed with a block: `with Loader(...) as loader`."""

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Something to close, also when a block ends in an error."""

    @abstractmethod
    def close(self) -> None:
        """End what runs and free the memory."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

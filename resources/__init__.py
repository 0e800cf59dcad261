"""What assets, sensors and schedules are handed: the project's configuration, its store and the chain."""

from resources.project import ProjectResource

__all__ = ["ProjectResource"]

"""A git server on loopback that stands for a forge whose API nobody asks."""

from tests.forges.server import Forge, Project, serving

__all__ = ["Forge", "Project", "serving"]

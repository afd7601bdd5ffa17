"""Nobody attacks: every client does what it is told."""

from dataclasses import dataclass

__all__ = ["Honest"]


@dataclass(frozen=True, slots=True)
class Honest:
    """All clients are honest."""

"""Claims: optional class attributes (or properties) by which a component states what it guarantees."""

from typing import Generic, TypeVar

import attrs

T = TypeVar("T")


@attrs.frozen
class Claim(Generic[T]):
    """A statement a component may make about itself, with the value that silence means.

    A component makes the claim by having an attribute of that name, constant or computed from its options. The core
    relies on claims for exactness, and the contract tests try to refute them.
    """

    name: str
    default: T
    help: str

    def of(self, component: object) -> T:
        """What ``component`` claims; the default where it says nothing."""
        value: T = getattr(component, self.name, self.default)
        return value

"""What a backend finds wrong with what it keeps beside the records themselves."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BackendFault"]


@dataclass(frozen=True, slots=True)
class BackendFault:
    """One thing that is not as it should be; no collection shows it."""

    code: str
    subject: tuple[str, ...]
    """The ids of the record that it is about, if it is about one."""
    text: str
    """What is wrong, and what follows from it."""
    serious: bool
    repairable: bool = False
    """`LightningCollections.mend` mends it, and loses nothing."""

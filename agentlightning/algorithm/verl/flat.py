"""A nested configuration as dotted keys, of which each is taken once; what stays is unknown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from agentlightning.errors import ConfigurationError

__all__ = ["FlatConfig"]


class FlatConfig:
    """Dotted keys of a nested dictionary, with or without Hydra's `+` and `++` before them."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Flatten `config`; an empty dictionary in it has no key."""
        self._values: dict[str, Any] = {}
        self._add("", config)

    def _add(self, prefix: str, config: Mapping[str, Any]) -> None:
        for name, value in config.items():
            key = f"{prefix}{str(name).lstrip('+')}"
            # OmegaConf's containers are no dictionaries, but have their methods.
            if isinstance(value, Mapping) or hasattr(value, "items"):
                self._add(f"{key}.", cast("Mapping[str, Any]", value))
            else:
                self._values[key] = value

    def take(self, key: str, default: Any) -> Any:
        """Return the value of `key` and strike it off; `default` where it is missing or None."""
        value = self._values.pop(key, None)
        return default if value is None else value

    def number(self, key: str, default: float) -> float:
        """Return a number, also where it was written as a string (YAML reads `1e-6` as one).

        Raises:
            ConfigurationError: It is none.
        """
        value = self.take(key, default)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{key}={value!r} is not a number.") from error

    def integer(self, key: str, default: int) -> int:
        """Return a whole number.

        Raises:
            ConfigurationError: It is none.
        """
        value = self.number(key, default)
        if not value.is_integer():
            raise ConfigurationError(f"{key}={value!r} is not a whole number.")
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false.

        Raises:
            ConfigurationError: It is neither.
        """
        value = self.take(key, default)
        if isinstance(value, str):
            value = {"true": True, "false": False}.get(value.lower(), value)
        if not isinstance(value, bool):
            raise ConfigurationError(f"{key}={value!r} is neither true nor false.")
        return value

    def choice(self, key: str, default: str, known: Mapping[str, str]) -> str:
        """Return what `known` has for the value.

        Raises:
            ConfigurationError: It has nothing; the message lists what there is.
        """
        value = str(self.take(key, default))
        if value not in known:
            raise ConfigurationError(
                f"{key}={value!r} has no counterpart here; there is {', '.join(known)}."
            )
        return known[value]

    def rest(self, without: tuple[str, ...]) -> list[str]:
        """Return the keys that nobody took, but for those that begin like one of `without`."""
        return sorted(key for key in self._values if not key.startswith(without))

    def present(self, prefixes: tuple[str, ...]) -> list[str]:
        """Return the keys that nobody took and that begin like one of `prefixes`."""
        return sorted(key for key in self._values if key.startswith(prefixes))

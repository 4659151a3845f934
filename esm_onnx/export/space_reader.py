"""What a writer asks of a space: the features it knows and the settings it needs, checked once, at the border."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from esm_onnx.architectures import Architecture, Feature, Space
from esm_onnx.errors import InputError


@dataclass(frozen=True, slots=True)
class Rule:
    """What a number has to be."""

    expected: str
    allows: Callable[[Any], bool]


WHOLE = Rule("a whole number from 1 to 100,000", lambda value: _is_whole(value) and 1 <= value <= 100_000)
ODD = Rule("an odd whole number", lambda value: _is_whole(value) and value >= 1 and value % 2 == 1)
FLAG = Rule("0 or 1", lambda value: _is_whole(value) and value in (0, 1))
POSITIVE_NUMBER = Rule(
    "a number above 0",
    lambda value: isinstance(value, int | float | Fraction) and not isinstance(value, bool) and 0 < value < math.inf,
)


class SpaceReader:
    """The features and the export settings of a space, as one writer sees them.

    Args:
        features: what each block must have, and the rule for its options; None where the writer takes any.
        optional: what a block may have besides.
        network: what the network must have; a resolution it may always have.
        settings: names that the export table may hold.

    Raises:
        InputError: a feature is missing, or a feature, an option or a setting is unknown to the writer.
    """

    def __init__(
        self,
        space: Space,
        *,
        features: Mapping[str, Rule] | None,
        optional: Mapping[str, Rule] | None = None,
        network: Mapping[str, Rule] | None = None,
        settings: Collection[str],
    ) -> None:
        if space.export is None:
            raise ValueError("a space without [export] has no writer")
        self._space = space
        self._writer = space.export.writer
        self._settings = space.export.settings
        for name in self._settings:
            if name not in settings:
                raise self._error(f"unknown setting {name!r}, expected {', '.join(settings)}")
        if features is not None:
            self._check_features(space.features, features, optional or {}, "[block] or [unit]")
            self._check_features(space.network, network or {}, {"resolution": WHOLE}, "[network]")

    def has(self, name: str) -> bool:
        """Whether blocks have this feature."""
        return any(feature.name == name for feature in self._space.features)

    def sets(self, name: str) -> bool:
        """Whether the export table holds this setting."""
        return name in self._settings

    def number(self, name: str, default: int, rule: Rule = WHOLE) -> Any:
        """A setting that is one number."""
        return self._checked(name, self._settings.get(name, default), rule)

    def numbers(self, name: str, count: int, default: Sequence[int] | None = None, rule: Rule = WHOLE) -> list[int]:
        """A setting that is a list of `count` numbers; one that has no default must be there."""
        value = self._settings.get(name, default)
        if value is None:
            raise self._error(f"no setting {name!r}, expected a list of {count} numbers")
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise self._error(f"setting {name!r} is {value!r}, expected a list of {count} numbers")
        if len(value) != count:
            raise self._error(f"setting {name!r} has {len(value)} numbers, expected {count}: {list(value)!r}")
        return [self._checked(name, item, rule) for item in value]

    def per_unit(self, name: str, default: Sequence[int] | None = None, rule: Rule = WHOLE) -> list[int]:
        """A setting that is one number for each unit."""
        return self.numbers(name, len(self._space.depths), default, rule)

    def instead_of(self, feature: str, name: str, rule: Rule) -> list[int] | None:
        """The setting, one number for each unit, of a space whose blocks do not choose that; None where they do."""
        if self.has(feature) == self.sets(name):
            found = "both" if self.has(feature) else "neither"
            raise self._error(f"{found} a feature {feature!r} and a setting {name!r}, expected one of them")
        return None if self.has(feature) else self.per_unit(name, rule=rule)

    def resolution(self, architecture: Architecture) -> int:
        """Height and width of the input, pixels: the network's feature, else the setting, else 224."""
        if "resolution" not in architecture.network:
            return whole(self.number("resolution", 224))
        chosen = architecture.network["resolution"]
        if not WHOLE.allows(chosen):
            raise self._error(f"feature 'resolution' has the option {chosen!s}, expected {WHOLE.expected}")
        return whole(chosen)

    def _checked(self, name: str, value: object, rule: Rule) -> Any:
        if not rule.allows(value):
            raise self._error(f"setting {name!r} has {value!r}, expected {rule.expected}")
        return value

    def _check_features(
        self, found: tuple[Feature, ...], required: Mapping[str, Rule], optional: Mapping[str, Rule], place: str
    ) -> None:
        known = {**required, **optional}
        names = [feature.name for feature in found]
        for name in required:
            if name not in names:
                raise self._error(f"no feature {name!r} in {place}, which the writer needs")
        for feature in found:
            if feature.name not in known:
                expected = ", ".join(known)
                raise self._error(f"feature {feature.name!r} in {place} is unknown to the writer, expected {expected}")
            for option in feature.options:
                if not known[feature.name].allows(option):
                    expected = known[feature.name].expected
                    raise self._error(f"feature {feature.name!r} has the option {option!s}, expected {expected}")

    def _error(self, message: str) -> InputError:
        return InputError(f"space {self._space.name!r}, writer {self._writer!r}: {message}")


def whole(option: object) -> int:
    """An option that a rule has found to be whole."""
    if not isinstance(option, int):
        raise TypeError(f"{option!r} is not whole")
    return option


def exact(option: object) -> Fraction:
    """A number as it was written: 0.1 is one tenth."""
    return Fraction(str(option))


def round_to_eight(number: Fraction) -> int:
    """The nearest multiple of 8, a tie upwards, at least 8: what channel counts are rounded to."""
    return max(8, math.floor(number / 8 + Fraction(1, 2)) * 8)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

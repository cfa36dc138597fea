"""Options of tuning methods as dataclasses, and methods that are trained together."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar


class MethodOptions:
    """Base of the options of a tuning method: a dataclass whose fields are the method's section of a configuration.

    `Prefix() | LoRA()` names two methods that are trained together. A method in a module of your own subclasses this
    and sets `method` to the module's path.
    """

    method: ClassVar[str]

    @classmethod
    def section(cls) -> dict[str, Any]:
        """Returns the options with their defaults."""
        return cls().options()

    def options(self) -> dict[str, Any]:
        """Returns the options, by name."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @property
    def parts(self) -> "tuple[MethodOptions, ...]":
        return (self,)

    def __or__(self, other: "MethodOptions | Together") -> "Together":
        return Together((*self.parts, *other.parts))

    def __repr__(self) -> str:
        defaults = self.section()
        changed = [f"{name}={value!r}" for name, value in self.options().items() if value != defaults[name]]
        return f"{type(self).__name__}({', '.join(changed)})"


@dataclass(frozen=True, repr=False)
class Together:
    """Several methods that are trained together, as `Prefix() | LoRA()`."""

    parts: tuple[MethodOptions, ...]

    def __or__(self, other: "MethodOptions | Together") -> "Together":
        return Together((*self.parts, *other.parts))

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.parts))

"""What all modules here have in common: they replace one of torch's and can be made from it."""

from __future__ import annotations

from typing import Any, ClassVar

from ..._words import speak

__all__ = ["Kind", "Replacement", "made_from"]


_HERE = __name__.rpartition(".")[0]


class Kind(type):
    """The type of the modules: they are defined here, but their objects say ``torch.nn``.

    ``torch.fx`` asks an object's ``__module__`` whether to keep a module whole, as ``eval()`` of what it traces needs; all others
    (pickles, documentation) ask the class.
    """

    _module: str

    def __new__(cls, name: str, bases: tuple[type, ...], names: dict[str, Any], **keywords: Any) -> Any:
        module = names["__module__"]
        is_ours = module.startswith(_HERE)
        made = super().__new__(cls, name, bases, {**names, "__module__": "torch.nn"} if is_ours else names, **keywords)
        made._module = module
        return made

    @property
    def __module__(cls) -> str:
        return cls._module

    @__module__.setter
    def __module__(cls, name: str) -> None:
        cls._module = name

    def __repr__(cls) -> str:
        return f"<class '{cls.__module__}.{cls.__qualname__}'>"


class Replacement(metaclass=Kind):
    """A subclass of a class of torch's that computes the same in another way.

    It has no attributes of its own, so an instance of either class becomes one of the other by taking over what it has.

    Attributes:
        replaces: torch's class.
    """

    replaces: ClassVar[Any]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        speak(cls, inherited=True)

    @classmethod
    def from_torch(cls, module: Any) -> Any:
        """Makes a module of a ``module`` of torch's, with the same parameters, buffers, hooks and training flag: they are shared."""
        if type(module) is cls:
            return module
        if type(module) is not cls.replaces:
            raise TypeError(
                f"{cls.__name__}.from_torch: module must be a {cls.replaces.__module__}.{cls.replaces.__name__} "
                f"itself, got {type(module).__name__}, which may compute something else"
            )
        return made_from(cls, module)

    def to_torch(self) -> Any:
        """Makes a module of torch's class, with the same parameters, buffers, hooks and training flag: they are shared."""
        return made_from(self.replaces, self)


def made_from(to: Any, module: Any) -> Any:
    """A module of class ``to`` that shares all that ``module`` has; its hooks can still be removed by the handles they came with."""
    made = to.__new__(to)
    made.__dict__.update(module.__dict__)
    return made

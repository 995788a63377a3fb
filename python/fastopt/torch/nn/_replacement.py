"""What all modules here have in common: they replace one of torch's and can be made from it."""

from __future__ import annotations

from typing import Any, ClassVar

from ..._words import speak

__all__ = ["Replacement", "Whole", "made_from", "mark", "unmark"]


_OF_TORCH = "torch.nn"


def mark(module: Any) -> None:
    """Makes ``torch.fx`` keep a module whole, as it keeps torch's: it asks an object whether its ``__module__`` is one of torch.nn's."""
    vars(module)["__module__"] = _OF_TORCH


def unmark(module: Any) -> None:
    """Undoes :func:`mark`."""
    vars(module).pop("__module__", None)


class Whole:
    """A module of ours that ``torch.fx`` keeps whole; users' subclasses are traced, as those of torch's are."""

    def __new__(cls, *args: Any, **keywords: Any) -> Any:
        made = super().__new__(cls)
        if cls.__module__ == __name__.rpartition(".")[0]:
            mark(made)
        return made


class Replacement(Whole):
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
    vars(made).update((key, value) for key, value in vars(module).items() if key != "__module__")
    return made

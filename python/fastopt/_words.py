"""Errors about the arguments of a call: they name what the caller knows, and lead from other libraries' words to ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from ._foreign import Meant

_Function = TypeVar("_Function", bound=Callable[..., Any])


def meant_by(word: str, known: Iterable[str]) -> Meant | None:
    """What the caller probably meant: a known name with a note, advice without a name, or ``None`` if nothing is likely."""
    import difflib  # only errors need this and the table

    from ._foreign import WORDS, Meant

    names = list(known)
    for one in WORDS.get(word, ()):
        if (not one.name or one.name in names) and (not one.having or one.having in names):
            return one
    close = difflib.get_close_matches(word, names, 1, 0.75)
    return Meant(close[0]) if close else None


def closest(word: str, known: Iterable[str]) -> str:
    """The known name that the caller probably meant; empty if none is likely."""
    meant = meant_by(word, known)
    return meant.name if meant else ""


def no_such(function: str, word: str, known: Iterable[str]) -> str:
    """The text of an error about an unknown keyword that leads to what was meant; empty if nothing is likely."""
    meant = meant_by(word, known)
    if meant is None:
        return ""
    note = f" ({meant.note})" if meant.name and meant.note else ""
    way = f"did you mean {meant.name}{note}?" if meant.name else meant.note
    return f"{function}: there is no {word}; {way}"


def unknown_hyperparameter(function: str, word: str, known: Iterable[str]) -> str:
    """The text of an error about an unknown hyperparameter: what was meant, or else what there is."""
    names = list(known)
    return no_such(function, word, names) or f"{function}: unknown hyperparameter {word!r}; it has {', '.join(names)}"


def unknown_option(name: str, step: Callable[..., Any], unknown: Iterable[str]) -> TypeError:
    """The error about options that a step does not have."""
    import inspect

    word = next(iter(unknown))
    options = [key for key, one in inspect.signature(step).parameters.items() if one.kind is one.KEYWORD_ONLY]
    return TypeError(
        no_such(name, word, options) or f"{name}: step has no option {word!r}; it has {', '.join(options)}"
    )


def expect_keywords(name: str, function: Callable[..., Any], given: Iterable[str]) -> None:
    """After a TypeError: raises a better one if a keyword is unknown to the function and a known one was probably meant."""
    import inspect

    parameters = inspect.signature(function).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return
    for word in given:
        if word not in parameters and (text := no_such(name, word, parameters)):
            raise TypeError(text) from None


def retell(error: TypeError, name: str, function: Callable[..., Any], usage: str = "") -> None:
    """Python's own error about the arguments of a call names what the caller knows, and lists what there is for an unknown keyword.

    Args:
        error: Any TypeError of the call.
        name: The name of the class or function that was called.
        function: The function that was called, which may belong to an internal class.
        usage: How the function is called, for the end of the text.
    """
    import inspect

    own = f"{function.__qualname__}() "
    text = str(error)
    if len(error.args) != 1 or not text.startswith(own):
        return
    is_method = "." in function.__qualname__ and "<locals>" not in function.__qualname__
    text = f"{name}.{function.__name__}() " + text[len(own) :] if is_method else text
    if "unexpected keyword argument" in text and "Did you mean" not in text:
        names = [*inspect.signature(function).parameters][is_method:]
        if len(names) <= 20:  # more would hide the error
            text += f"; it has {', '.join(names) or 'no arguments'}"
    error.args = (f"{text}; {usage}" if usage else text,)


def _our_class(cls: type) -> str:
    """The name of a class of fastopt's, or of the one from which a user's class inherits."""
    return next((one.__name__ for one in cls.__mro__ if one.__module__.partition(".")[0] == "fastopt"), cls.__name__)


def used(usage: str) -> Callable[[_Function], _Function]:
    """The function, whose errors about its arguments say how it is called; a keyword does not mean there what it means elsewhere."""
    return lambda function: spoken(function, usage)


def spoken(function: _Function, usage: str = "") -> _Function:
    """The function or method, which leads from an unknown keyword to what it is called here.

    The signature stays.  A call costs a fraction of a microsecond more, which the optimizers' step does not have to spare: it
    takes ``**unknown``.
    """
    of_object = "." in function.__qualname__ and "<locals>" not in function.__qualname__

    @wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        try:
            return function(*args, **keywords)
        except TypeError as error:
            if args or not of_object:
                name = _our_class(type(args[0])) if of_object else function.__name__
                if not usage:
                    expect_keywords(name, function, keywords)
                retell(error, name, function, usage)
            raise

    return cast(_Function, call)


def speak(cls: Any, inherited: bool = False) -> None:
    """Makes the constructor of one of our own classes :func:`spoken`; users' subclasses stay as they are.

    With ``inherited`` also one that belongs to another library's class.
    """
    if (inherited or "__init__" in vars(cls)) and cls.__module__.partition(".")[0] == "fastopt":
        cls.__init__ = spoken(cls.__init__)

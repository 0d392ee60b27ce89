"""Results that stay in the process that made them: objects that cannot be pickled.

Owns the objects of this process and what stands for them elsewhere: a pickle that gives the object itself
where that lives, and says what to do anywhere else.
"""

from __future__ import annotations

import pickle
import threading
import uuid
from typing import Any

from ._result import Unpicklable

# By the number of the call that made them.
_objects: dict[int, Any] = {}
# Of the process that has them.
_place = ""
_lock = threading.Lock()


class _Reference:
    """What is pickled instead of an object."""

    def __init__(self, place: str, number: int, why: str) -> None:
        self.of = (place, number, why)

    def __reduce__(self) -> tuple[Any, ...]:
        return find, self.of


def keep(number: int, value: Any, why: str) -> list[tuple[str, Any]]:
    """Keeps an object until `let_go(number)`; the parts that stand for it.

    Args:
        number: of the call that made it; each is used once in a process.
        value: the object.
        why: what cannot be pickled, for those who want it elsewhere.
    """
    global _place
    with _lock:
        _place = _place or uuid.uuid4().hex
    _objects[number] = value
    return [("", pickle.dumps(_Reference(_place, number, why), protocol=5))]


def let_go(numbers: list[int]) -> None:
    """Forgets objects."""
    for number in numbers:
        _objects.pop(number, None)


def find(place: str, number: int, why: str) -> Any:
    """The object, in the process where it lives.

    Raises:
        Unpicklable: this is another one.
    """
    if place == _place and number in _objects:
        return _objects[number]
    raise Unpicklable(
        f"{why}. It lives in the worker's process that made it, where tasks that depend on it run, and "
        "cannot be sent anywhere else: let the task return something that can be pickled, or do what needs "
        "it in a task that depends on it"
    )

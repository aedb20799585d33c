"""Room for a bounded number of devices, first come, first served. The rule: event time alone decides who leaves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Places(Generic[T]):
    """What is held for at most `devices_max` slots.

    When all places are taken, a new slot gets that of the one that was heard of longest ago if that is more than
    `idle_us` before the new one's time; what was held for it is lost. Otherwise the new one gets none. So slots are
    isolated from one another up to that.

    Parameters
    ----------
    make : what is held for a new slot.
    """

    def __init__(self, devices_max: int, idle_us: int, make: Callable[[], T]) -> None:
        if not 1 <= devices_max <= 65536:
            raise ValueError(f"devices_max must lie in 1..65536, not {devices_max}")
        if idle_us < 0:
            raise ValueError(f"idle_us cannot be negative: {idle_us}")
        self._devices_max, self._idle_us, self._make = devices_max, idle_us, make
        self._held: OrderedDict[int, T] = OrderedDict()  # longest unheard of first
        self._last_us: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def at(self, slot: int, ts_us: int) -> T | None:
        """What is held for a slot, made if there is a place, and now heard of last; None = there is no place."""
        held = self._held.get(slot)
        if held is None:
            if len(self._held) >= self._devices_max:
                longest = next(iter(self._held))
                if ts_us - self._last_us[longest] <= self._idle_us:
                    return None
                self.forget((longest,))
            held = self._held[slot] = self._make()
            self._last_us[slot] = ts_us
            return held
        self._held.move_to_end(slot)
        self._last_us[slot] = max(self._last_us[slot], ts_us)
        return held

    def get(self, slot: int) -> T | None:
        """What is held for a slot, if anything is."""
        return self._held.get(slot)

    def last_us(self, slot: int) -> int:
        """When a slot that is held was last heard of."""
        return self._last_us[slot]

    def forget(self, slots: Iterable[int]) -> None:
        """Free their places."""
        for slot in slots:
            self._held.pop(slot, None)
            self._last_us.pop(slot, None)

    def adopt(self, items: Iterable[tuple[int, T, int]]) -> None:
        """Hold these (slot, what is held, last heard of) too; of too many those longest unheard of get no place."""
        for slot, held, last_us in items:
            self._held[slot], self._last_us[slot] = held, last_us
        by_age = sorted(self._held, key=lambda slot: self._last_us[slot])
        self.forget(by_age[: max(0, len(by_age) - self._devices_max)])
        self._held = OrderedDict((slot, self._held[slot]) for slot in by_age if slot in self._held)

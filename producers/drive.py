"""Driver, road and body of a car. The rule: motion follows from forces; a car that lacks force is slow.

A driver model follows target speeds of alternating phases (parked, city, suburban, motorway). The power train
says which force it can give; acceleration, speed, wheel speeds, heading and position follow.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from producers.model import Floats, Ints, Mask, between, follow, uniform

PARKED, CITY, SUBURBAN, MOTORWAY = range(4)

GRAVITY = 9.81
AIR_DENSITY = 1.2
WHEEL_RADIUS_M = 0.33
WHEELBASE_M = 2.8
TRACK_M = 1.58
STEERING_RATIO = 15.0
LATERAL_MAX = 2.5  # m/s2 that the driver accepts in a bend
STANDSTILL_MPS = 0.2
METRES_PER_DEGREE = 111_320.0

#: Where the fleet lives: latitude and longitude of the depots, degrees.
DEPOTS = ((48.137, 11.575), (52.520, 13.405), (50.110, 8.682), (53.551, 9.994), (48.775, 9.182))


class Drive:
    """Motion of n cars.

    Attributes (float64, shape (n), SI units)
    -----------------------------------------
    speed, accel, force_drive, force_brake (<= 0), force_wanted, curvature (1/m, positive left), yaw (rad/s),
    grade, heading (rad, clockwise from north), east, north (m from the depot), distance (m).
    """

    #: Per phase: duration of the phase, target speed (km/h), duration of a segment, chance that it is a stop.
    PHASE_S: ClassVar[tuple[tuple[float, float], ...]] = ((240, 900), (180, 600), (240, 600), (300, 1200))
    TARGET_KMH: ClassVar[tuple[tuple[float, float], ...]] = ((0, 0), (25, 55), (50, 85), (95, 130))
    SEGMENT_S: ClassVar[tuple[tuple[float, float], ...]] = ((60, 60), (15, 45), (25, 70), (40, 120))
    STOP_CHANCE: ClassVar[tuple[float, ...]] = (1.0, 0.4, 0.12, 0.0)
    #: Row: phase now; cumulative chances of the next: parked, city, suburban, motorway.
    NEXT: ClassVar[tuple[tuple[float, ...], ...]] = (
        (0.0, 1.0, 1.0, 1.0),
        (0.2, 0.35, 0.9, 1.0),
        (0.0, 0.4, 0.55, 1.0),
        (0.0, 0.0, 1.0, 1.0),
    )

    def __init__(self, n: int, seed: int, rng: np.random.Generator, mass_kg: Floats) -> None:
        self.n, self.seed, self.rng, self.mass_kg = n, seed, rng, mass_kg
        self.drag_area = 0.62
        device = np.arange(n)

        def first(stream: int) -> Floats:
            return uniform(seed, device, 0, stream)

        self.phase: Ints = np.searchsorted((0.1, 0.5, 0.75), first(1), side="right")
        self.phase_left_s = between(first(2), 0.1, 1.0) * np.array(self.PHASE_S)[self.phase].mean(axis=1)
        self.segment_left_s = np.zeros(n)
        self.event: Ints = np.zeros(n, np.int64)
        self.target = between(first(3), *np.array(self.TARGET_KMH)[self.phase].T) / 3.6
        self.brisk = between(first(4), 1.2, 2.2)  # m/s2
        self.speed = self.target.copy()
        self.accel = np.zeros(n)
        self.command = np.zeros(n)
        self.wander = np.zeros(n)
        self.grade = np.zeros(n)
        self.weave = np.zeros(n)
        self.turn = np.zeros(n)
        self.turn_left_rad = np.zeros(n)
        self.bend = np.zeros(n)
        self.curvature = np.zeros(n)
        self.yaw = np.zeros(n)
        self.force_drive = np.zeros(n)
        self.force_brake = np.zeros(n)
        self.force_wanted = np.zeros(n)
        self.brake_pedal = np.zeros(n)
        self.heading = between(first(5), 0, 2 * np.pi)
        self.east = between(first(6), -4000, 4000)
        self.north = between(first(7), -4000, 4000)
        self.distance = between(first(8), 4e6, 120e6)
        depots = np.array(DEPOTS)[(first(9) * len(DEPOTS)).astype(int)]
        self.latitude0, self.longitude0 = depots[:, 0], depots[:, 1]
        self.jitter = np.zeros((2, n))

    @property
    def standing(self) -> Mask:
        return self.speed == 0.0

    def latitude(self) -> Floats:
        return self.latitude0 + (self.north + self.jitter[0]) / METRES_PER_DEGREE

    def longitude(self) -> Floats:
        scale = METRES_PER_DEGREE * np.cos(np.radians(self.latitude0))
        return self.longitude0 + (self.east + self.jitter[1]) / scale

    def plan(self, dt_s: float, must_park: Mask) -> None:
        """Let phases and segments run out and choose the next ones. must_park : empty: park (and refill) next."""
        self.phase_left_s -= dt_s
        self.segment_left_s -= dt_s
        due = np.flatnonzero(self.segment_left_s <= 0)
        if not due.size:
            return
        self.event[due] += 1
        u = [uniform(self.seed, due, self.event[due], stream) for stream in range(10, 17)]
        phase = self.phase[due]
        over = (self.phase_left_s[due] <= 0) | (must_park[due] & (phase != PARKED))
        following = (u[0][:, None] >= np.array(self.NEXT)[phase]).sum(axis=1)
        following[must_park[due]] = PARKED
        phase = np.where(over, following, phase)
        length = between(u[1], *np.array(self.PHASE_S)[phase].T)
        self.phase_left_s[due] = np.where(over, length, self.phase_left_s[due])
        self.phase[due] = phase
        target = between(u[2], *np.array(self.TARGET_KMH)[phase].T) / 3.6
        stop = u[3] < np.array(self.STOP_CHANCE)[phase]
        self.target[due] = np.where(stop, 0.0, target)
        braking_s = np.where(stop, self.speed[due] / 1.5, 0.0)
        self.segment_left_s[due] = between(u[4], *np.array(self.SEGMENT_S)[phase].T) * np.where(
            stop & (phase != PARKED), 0.5, 1.0
        )
        self.segment_left_s[due] += braking_s
        turns = (u[5] < 0.35) & (phase == CITY) & ~stop
        side = np.where(u[6] < 0.5, -1.0, 1.0)
        self.turn[due] = np.where(turns, side / between(u[6], 12, 25), 0.0)
        self.turn_left_rad[due] = np.where(turns, np.pi / 2, 0.0)

    def _steer(self, dt_s: float, noise: Floats) -> None:
        moving = self.speed > 0.5
        self.turn_left_rad -= np.abs(self.yaw) * dt_s * (self.turn != 0)
        turn = np.where(self.turn_left_rad > 0, self.turn, 0.0)
        squared = np.maximum(self.speed, 1.0) ** 2
        limit = LATERAL_MAX / squared
        self.bend += moving * follow(dt_s, 1.2) * (np.clip(turn, -limit, limit) - self.bend)
        self.weave += moving * (np.sqrt(2 * follow(dt_s, 4.0)) * noise - follow(dt_s, 4.0) * self.weave)
        wanted = np.clip(self.bend + self.weave * np.minimum(0.002, 0.25 / squared), -limit, limit)
        self.curvature += moving * follow(dt_s, 0.5) * (wanted - self.curvature)

    def _wanted(self, dt_s: float, noise: Floats) -> None:
        self.wander += np.sqrt(2 * follow(dt_s, 12.0)) * 0.4 * noise - follow(dt_s, 12.0) * self.wander
        in_bend = np.where(self.turn_left_rad > 0, np.sqrt(LATERAL_MAX / np.maximum(np.abs(self.turn), 1e-4)), 90.0)
        stopping = self.target == 0
        goal = np.minimum(self.target + np.where(stopping, 0.0, self.wander), in_bend)
        gap = goal - self.speed
        wish = np.clip(0.3 * gap, -2.2, self.brisk)
        wish = np.where(stopping, -np.clip(0.3 * self.speed, 0.5, 2.2), wish)
        self.command += follow(dt_s, 0.7) * (wish - self.command)

    def advance(self, dt_s: float, force_max: Floats, regen_max: Floats, force_nominal: Floats) -> None:
        """Drive on. force_max, regen_max : what the power train gives now, N (n), both >= 0.

        force_nominal : what it would give in health: the accelerator pedal's scale.
        """
        noise = self.rng.standard_normal((5, self.n))
        self._wanted(dt_s, noise[0])
        self._steer(dt_s, noise[1])
        self.grade += np.sqrt(2 * follow(dt_s, 25.0)) * 0.012 * noise[2] - follow(dt_s, 25.0) * self.grade
        self.grade = np.clip(self.grade, -0.04, 0.04)
        self.jitter += np.sqrt(2 * follow(dt_s, 40.0)) * 1.2 * noise[3:5] - follow(dt_s, 40.0) * self.jitter
        stopping = self.target == 0
        slope = GRAVITY * self.mass_kg * self.grade
        resist = 0.009 * GRAVITY * self.mass_kg + slope + 0.5 * AIR_DENSITY * self.drag_area * self.speed**2
        wanted = self.mass_kg * self.command + resist
        self.force_drive = np.clip(wanted, -regen_max, force_max)
        self.force_brake = np.minimum(wanted - self.force_drive, 0.0)
        accel = (self.force_drive + self.force_brake - resist) / self.mass_kg
        speed = np.maximum(self.speed + accel * dt_s, 0.0)
        rest = stopping & (speed < STANDSTILL_MPS)
        speed[rest] = 0.0
        self.accel = (speed - self.speed) / dt_s
        middle = 0.5 * (speed + self.speed)
        self.speed = speed
        for values in (self.force_drive, self.command):
            values[rest] = 0.0
        self.force_wanted = np.where(rest, 0.0, np.clip(wanted / force_nominal, 0.0, 1.0))
        pedal = np.where(rest, 12.0, np.clip(-100.0 * self.force_brake / (9.0 * self.mass_kg), 0.0, 100.0))
        self.brake_pedal += follow(dt_s, 0.4) * (pedal - self.brake_pedal)
        self.yaw = middle * self.curvature
        self.heading -= self.yaw * dt_s  # compass headings run clockwise, yaw to the left
        self.heading %= 2 * np.pi
        self.east += middle * dt_s * np.sin(self.heading)
        self.north += middle * dt_s * np.cos(self.heading)
        self.distance += middle * dt_s

    def wheel_speeds(self, radius: Floats) -> Floats:
        """m/s, (4, n): front left, front right, rear left, rear right.

        radius : (4, n), rolling radius relative to nominal: a smaller wheel turns faster.
        """
        across = 0.5 * TRACK_M * self.yaw
        front = self.speed * (1 + 0.5 * (WHEELBASE_M * self.curvature) ** 2)
        rear = self.speed * (1 + 2e-6 * self.force_drive)
        return np.maximum(np.stack((front - across, front + across, rear - across, rear + across)), 0.0) / radius

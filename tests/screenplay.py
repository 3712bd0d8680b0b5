"""What is said and seen in the recordings of the tests, when and by whom."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.signal import resample_poly

from actors import speak
from mmerc.features.recipe import SAMPLE_RATE, Samples

GAIN = 0.5  # so that two who speak at once do not clip


@dataclass(frozen=True)
class Person:
    """Someone with a voice and a face."""

    name: str
    pitch: int
    words_per_minute: int
    seed: int  # of the face

    def say(self, text: str) -> Samples:
        """Return the sound of a text: samples (S,) at 16 kHz."""
        return speak(text, pitch=self.pitch, words_per_minute=self.words_per_minute)


@dataclass(frozen=True)
class Line:
    """An utterance; it lasts as long as it takes to say its text."""

    person: Person
    text: str
    start_s: float
    label: str = "neutral"
    voiced: bool = True  # False: it is in the transcript, but nobody says it
    moves: bool = True  # False: the mouth stays closed

    @property
    def end_s(self) -> float:
        """When it ends, from the start of the recording."""
        return self.start_s + len(self.person.say(self.text)) / SAMPLE_RATE

    def loudness(self, at_s: float) -> float:
        """Return how loud it is around a time, 0 to 1."""
        if not self.voiced or not self.start_s <= at_s < self.end_s:
            return 0.0
        middle = round((at_s - self.start_s) * SAMPLE_RATE)
        part = self.person.say(self.text)[max(middle - 640, 0) : middle + 640]
        return float(min(np.sqrt(np.mean(part**2)) / 0.18, 1.0))


@dataclass(frozen=True)
class Shot:
    """Who is in the picture from a time on, from left to right; nobody: a slide."""

    start_s: float
    people: tuple[Person, ...] = ()


@cache
def _resampled(person: Person, text: str, rate: int) -> Samples:
    common = int(np.gcd(rate, SAMPLE_RATE))
    voice: Samples = resample_poly(person.say(text), rate // common, SAMPLE_RATE // common).astype(np.float32)
    return voice


@dataclass(frozen=True)
class Script:
    """What is said and seen."""

    lines: tuple[Line, ...]
    shots: tuple[Shot, ...]
    length_s: float

    def people(self, at_s: float) -> tuple[Person, ...]:
        """Return who is in the picture."""
        return [shot.people for shot in self.shots if shot.start_s <= at_s][-1]

    def mouth(self, person: Person, at_s: float) -> float:
        """Return how far someone's mouth is open, 0 to 1: as far as they are loud."""
        return max(
            (line.loudness(at_s) for line in self.lines if line.person == person and line.moves), default=0
        )

    def sound(self, start_s: float, end_s: float, rate: int) -> Samples:
        """Return what is heard: samples at `rate`."""
        start, end = round(start_s * rate), round(end_s * rate)
        mixed = np.zeros(end - start, np.float32)
        for line in self.lines:
            first = round(line.start_s * rate) - start
            if line.voiced and first < len(mixed) and line.end_s > start_s:
                voice = _resampled(line.person, line.text, rate)[max(-first, 0) :]
                place = mixed[max(first, 0) :][: len(voice)]
                place += GAIN * voice[: len(place)]
        return mixed

    def cut(self, start_s: float, end_s: float) -> "Script":
        """Return the part between two times."""
        lines = [line for line in self.lines if line.start_s < end_s and line.end_s > start_s]
        return Script(
            tuple(replace(line, start_s=line.start_s - start_s) for line in lines),
            (
                Shot(0.0, self.people(start_s)),
                *(Shot(s.start_s - start_s, s.people) for s in self.shots if start_s < s.start_s < end_s),
            ),
            end_s - start_s,
        )

    def repeated(self, times: int) -> "Script":
        """Return the same again and again."""
        starts = [k * self.length_s for k in range(times)]
        return Script(
            tuple(replace(line, start_s=line.start_s + start) for start in starts for line in self.lines),
            tuple(replace(shot, start_s=shot.start_s + start) for start in starts for shot in self.shots),
            self.length_s * times,
        )


ANNA, BEN, CLEO = Person("Anna", 80, 190, 0), Person("Ben", 15, 140, 1), Person("Cleo", 50, 230, 2)
RECORDING = Script(
    lines=(
        Line(ANNA, "Good morning everyone! I have wonderful news for you today.", 0.5, "joy"),
        Line(BEN, "I am sorry, but I have lost the keys again.", 4.0, "sadness"),
        # 7.0 to 8.5: silence, Ben looks on
        Line(CLEO, "As you can see on this slide, the numbers went down a little.", 8.5),  # no face
        Line(BEN, "Nobody told me about this. Why am I the last to know?", 12.0, "anger"),  # two faces
        Line(ANNA, "I really do not know what to say.", 17.0, "surprise", voiced=False),  # no sound
        Line(CLEO, "Let me finish, please, there is one more thing that we have to decide.", 19.0),
        Line(BEN, "No, I have heard enough.", 20.5, "anger"),  # at the same time as Cleo
    ),
    shots=(
        Shot(0.0, (ANNA,)),
        Shot(3.8, (BEN,)),
        Shot(8.4),
        Shot(11.8, (ANNA, BEN)),
        Shot(16.8, (ANNA,)),
        Shot(18.8, (CLEO, BEN)),
    ),
    length_s=23.0,
)

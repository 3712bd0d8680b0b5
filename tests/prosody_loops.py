"""The contours of `mmerc.features.prosody` again, frame by frame and bin by bin, from the formulas."""

import math

import numpy as np
import numpy.typing as npt

from mmerc.features import pitch

Array = npt.NDArray[np.float64]
RATE = 16000
HALF = 32  # samples on either side that interpolate a lag


def pitch_by_loops(sound: Array) -> tuple[list[float], list[float]]:
    """Return hertz and periodicity of every frame."""
    loudest = float(np.abs(sound).max())
    steps = []
    for start in range(0, len(sound) - 800 + 1, 160):
        frame = sound[start : start + 800]
        frame = frame - frame.mean()
        silence = np.abs(frame).max() / loudest / (0.03 / 1.45)
        options = [(0.0, 0.0, 0.45 + max(0.0, 2 - silence))]
        for hertz, height in candidates(frame):
            options.append((hertz, height, height - 0.01 * math.log2(60 / hertz)))
        steps.append(options)
    return viterbi(steps)


def candidates(frame: Array) -> list[tuple[float, float]]:
    lagged = autocorrelation(frame)
    found = []
    for lag in range(32, 268):
        before, here, after = lagged[lag - 1], lagged[lag], lagged[lag + 1]
        if here > before and here >= after and here > 0.225:
            rough = here + (after - before) ** 2 / (8 * (2 * here - before - after))
            found.append((rough - 0.01 * math.log2(60 * lag / RATE), lag))
    best = sorted(lag for _, lag in sorted(found)[-10:])
    return [refined(lagged, lag) for lag in best]


def autocorrelation(frame: Array) -> list[float]:
    window = [0.5 - 0.5 * math.cos(2 * math.pi * (n + 0.5) / 800) for n in range(800)]
    spectrum = np.fft.fft(frame * window, 1125)
    hertz = np.abs(np.fft.fftfreq(1125, 1 / RATE))
    power = np.abs(spectrum) ** 2 * np.minimum((8000 - hertz) / 800, 1)
    of_sound = np.fft.ifft(power).real
    own = sum(w * w for w in window)
    of_window = [float(np.dot(window[: 800 - lag], window[lag:])) / own for lag in range(300)]
    return [float(of_sound[lag] / of_sound[0] / of_window[lag]) for lag in range(300)]


def refined(lagged: list[float], lag: int) -> tuple[float, float]:
    offsets = [i / 8 for i in range(-5, 6)]
    fine = []
    for offset in offsets:
        total = 0.0
        for tap in range(-HALF, HALF + 1):
            away = offset - tap
            sinc = 1.0 if away == 0 else math.sin(math.pi * away) / (math.pi * away)
            total += lagged[lag + tap] * sinc * (0.5 + 0.5 * math.cos(math.pi * away / (HALF + 1)))
        fine.append(total)
    top = max(range(1, 10), key=lambda i: fine[i])
    before, here, after = fine[top - 1 : top + 2]
    shift = (after - before) / (2 * (2 * here - before - after))
    height = here + (after - before) * shift / 4
    return RATE / (lag + offsets[top] + shift / 8), 1 / height if height > 1 else height


def viterbi(steps: list[list[tuple[float, float, float]]]) -> tuple[list[float], list[float]]:
    best = [(worth, [(hertz, height)]) for hertz, height, worth in steps[0]]
    for options in steps[1:]:
        following = []
        for hertz, height, worth in options:
            total, path = max(
                ((t - change(p[-1][0], hertz), p) for t, p in best), key=lambda reached: reached[0]
            )
            following.append((total + worth, [*path, (hertz, height)]))
        best = following
    _, path = max(best, key=lambda reached: reached[0])
    return [hertz for hertz, _ in path], [height for _, height in path]


def change(a: float, b: float) -> float:
    if a == 0 or b == 0:
        return 0.0 if a == b else 0.14
    return 0.35 * abs(math.log2(a / b))


def spectrum_by_loops(sound: Array) -> tuple[list[list[float]], list[float], list[float]]:
    """Return the `SOUNDING` contours, the flux and the power in the band of the vowels of every frame."""
    rows, fluxes, syllabic = [], [], []
    previous: list[float] = []
    for start in range(0, len(sound) - pitch.WINDOW + 1, 160):
        frame = sound[start + 200 : start + 600]
        frame = frame - frame.mean()
        window = [0.5 - 0.5 * math.cos(2 * math.pi * (n + 0.5) / 400) for n in range(400)]
        power = [float(abs(x) ** 2) for x in np.fft.rfft(frame * window, 512)]
        bins = [(k * RATE / 512, p) for k, p in enumerate(power)][2:]
        total = sum(p for _, p in bins)
        share = [(hertz, p / total) for hertz, p in bins]
        level = 10 * math.log10(max(sum(x * x for x in frame) / 400, 1e-9))
        rows.append([level, *shape(share), *mfcc(share)])
        moved = [(math.sqrt(s) - math.sqrt(b)) ** 2 for (_, s), b in zip(share, previous, strict=False)]
        fluxes.append(math.sqrt(sum(moved)))
        previous = [s for _, s in share]
        vowels = sum(p for hertz, p in bins if 300 <= hertz <= 3300)
        syllabic.append(2 * vowels / 512 / sum(w * w for w in window))
    return rows, fluxes, syllabic


def shape(share: list[tuple[float, float]]) -> list[float]:
    def band(low: float, high: float) -> list[float]:
        return [s for hertz, s in share if low < hertz <= high]

    def db(x: float) -> float:
        return 10 * math.log10(x + 1e-8)

    centroid = sum(hertz * s for hertz, s in share)
    spread = math.sqrt(sum((hertz - centroid) ** 2 * s for hertz, s in share))
    low = [(hertz / 1000, db(s)) for hertz, s in share if hertz <= 5000]
    slope = float(np.polyfit([k for k, _ in low], [d for _, d in low], 1)[0])
    flatness = sum(db(s) for _, s in share) / len(share) - db(1 / len(share))
    below, rolloff = 0.0, 0.0
    for hertz, s in share:
        below += s
        rolloff = hertz
        if below >= 0.85:
            break
    alpha = db(sum(band(0, 1000))) - db(sum(band(1000, 5000)))
    return [
        centroid, spread, slope, flatness, rolloff, alpha,
        db(max(band(0, 2000))) - db(max(band(2000, 5000))),
    ]  # fmt: skip


def mfcc(share: list[tuple[float, float]]) -> list[float]:
    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    def hertz_of(mels: float) -> float:
        return 700 * (10 ** (mels / 2595) - 1)

    edges = [hertz_of(mel(60) + (mel(8000) - mel(60)) * i / 27) for i in range(28)]
    logs = []
    for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
        inside = 0.0
        for hertz, s in share:
            if left < hertz <= centre:
                inside += s * (hertz - left) / (centre - left)
            elif centre < hertz < right:
                inside += s * (right - hertz) / (right - centre)
        logs.append(math.log(inside + 1e-8))
    return [
        math.sqrt(2 / 26) * sum(x * math.cos(math.pi * i * (b + 0.5) / 26) for b, x in enumerate(logs))
        for i in range(1, 14)
    ]

"""The sounds of the synthetic soundscapes: one recipe per class, from a random generator to eight seconds of audio.

Every recipe follows how the sound comes about: struck bodies ring in their modes (bell, drum, clock), throats are
pulse trains through formants (dog, cow, frog), water is a Poisson rain of bubbles, a rotor is modulated noise.
Pitch, rate, timbre and onsets are drawn anew for each clip, and `room` adds the place it was heard in.
"""

import numpy as np
from scipy import signal

from soundscapes.sound.synthesis import (
    LENGTH,
    SAMPLE_RATE,
    SECONDS,
    bump,
    formants,
    log_uniform,
    modes,
    noise,
    phase,
    place,
    rhythm,
    room,
    scatter,
    throat,
    wander,
)

# Ambiences -----------------------------------------------------------------------------------------------------------


def rain(rng):
    """A hiss of countless drops, and the near ones one by one, on leaves, stone or tin."""
    hiss = noise(rng, log_uniform(rng, 500, 1500), 7600, rng.uniform(-1, 3)) * wander(rng, 0.7, 1.0, 0.7)
    count = rng.poisson(8 * log_uniform(rng, 40, 150))
    pitch = log_uniform(rng, 900, 2500) * log_uniform(rng, 0.6, 2.5, count)
    taps = modes(pitch, log_uniform(rng, 0.006, 0.03, count), 320) * rng.exponential(1, (count, 1))
    return hiss + rng.uniform(1.0, 4.0) * scatter(rng, taps)


def wind(rng):
    """Noise whose centre rises and falls with the gusts; in some clips it whistles around a corner."""
    gusts = wander(rng, 0.0, 1.0, log_uniform(rng, 0.5, 1.2)) ** 1.5
    clip = noise(rng, 60, 250, 3) * (0.15 + 0.5 * gusts)
    centre = log_uniform(rng, 180, 350)
    whistle = max(0, rng.uniform(-0.6, 0.8))
    for width, ratio, level in ((log_uniform(rng, 120, 260), 1, 1.0), (log_uniform(rng, 12, 40), 1.9, whistle)):
        baseband = [noise(rng, 1, width) for _ in range(2)]  # band noise, shifted to where the gust has it
        turn = phase(centre * ratio * (1 + 1.6 * gusts))
        clip += level * gusts * (baseband[0] * np.cos(turn) + baseband[1] * np.sin(turn))
    return clip


def sea(rng):
    """Waves that swell, break bright and draw back hissing, over the open sea's rumble."""
    clip = 0.2 * noise(rng, 60, 400, 3)
    period = rng.uniform(2.4, 4.5)
    crests = np.arange(rng.uniform(-0.5, 0.5) * period, 10, period)
    swell, breaking = np.zeros(LENGTH, np.float32), np.zeros(LENGTH, np.float32)
    for crest in crests * rng.uniform(0.96, 1.04, len(crests)):
        behind = SECONDS - crest
        height = rng.uniform(0.6, 1.0)
        swell += height * np.exp(-((behind / np.where(behind < 0, 0.25 * period, 0.3 * period)) ** 2))
        breaking += height * np.exp(-np.abs(behind) / np.where(behind < 0, 0.06 * period, 0.35 * period))
    return clip + swell * noise(rng, 120, log_uniform(rng, 500, 900), 3) + breaking * noise(rng, 600, 6000, 3)


def stream(rng):
    """Bubbles: each rings at its own size's pitch, rising as it nears the surface (Minnaert, 1933)."""
    count = rng.poisson(8 * log_uniform(rng, 50, 120))
    pitch = log_uniform(rng, 350, 900) * log_uniform(rng, 1, 3.5, count)[:, None]
    steps = SECONDS[:1000]
    decay = 0.12 * pitch + 0.0002 * pitch**1.5  # 1/s: small bubbles ring shorter
    turn = pitch * steps * (1 + rng.uniform(0, 2.5, (count, 1)) * steps)
    bubbles = np.sin((2 * np.pi * turn).astype(np.float32)) * np.exp(-(decay * steps).astype(np.float32))
    bubbles *= rng.exponential(1, (count, 1)) * (600 / pitch) ** 0.4
    water = scatter(rng, bubbles) * wander(rng, 0.6, 1.0, 2)
    return water / water.std() + rng.uniform(0.1, 0.35) * noise(rng, 400, 3000, 2)


def fire(rng):
    """Crackles of every strength, from tick to snap, over the low flutter of the flames."""
    count = rng.poisson(8 * log_uniform(rng, 9, 28))
    shortness = log_uniform(rng, 0.0006, 0.006, (count, 1))  # s
    snap = rng.standard_normal((count, 600), np.float32) * np.exp(-SECONDS[:600] / shortness)
    snap += 0.7 * modes(log_uniform(rng, 900, 5000, count), log_uniform(rng, 0.01, 0.04, count), 600)
    snap *= np.minimum(rng.pareto(1.6, (count, 1)) + 0.25, 6)
    flutter = noise(rng, 50, log_uniform(rng, 180, 400), 4) * (0.4 + wander(rng, 0, 1, 9))
    crackle = scatter(rng, snap)
    return crackle / crackle.std() + rng.uniform(0.3, 0.8) * flutter


def crickets(rng):
    """A few insects, each rasping at its own pitch: chirps of three to five wing strokes, or one long trill."""
    clip = 0.02 * noise(rng, 200, 3000, 4)
    for level in (1.0, 0.6, 0.4, 0.25)[: rng.integers(2, 5)]:
        stroke = log_uniform(rng, 24, 45)  # wing strokes per second
        turn = phase(log_uniform(rng, 3300, 6000) * (1 + 0.006 * np.sin(2 * np.pi * stroke * SECONDS)))
        rasp = np.clip(np.sin(2 * np.pi * stroke * SECONDS + 0.1), 0, 1) ** 0.7
        if rng.random() < 0.7:
            strokes, rate = rng.integers(3, 6), log_uniform(rng, 1.3, 3.2)
            rasp = rasp * ((SECONDS * stroke + rng.uniform(0, 9)) % max(stroke / rate, strokes + 2) < strokes)
        clip += level * rasp * np.sin(turn)
    return clip


def traffic(rng):
    """A road: rumble all the time, tyres and engines of the vehicles that pass."""
    clip = rng.uniform(0.15, 0.4) * noise(rng, 45, 200, 3)
    tyres = noise(rng, log_uniform(rng, 250, 450), log_uniform(rng, 900, 1800), 4)
    low = noise(rng, 50, 300, 3)
    for onset in rng.uniform(-0.5, 8.5, rng.integers(3, 7)):
        width = rng.uniform(0.5, 1.2)
        near = 1 / (1 + ((SECONDS - onset) / width) ** 2) ** 1.5  # the level of a source driving past
        engine = log_uniform(rng, 55, 130) * (1 - 0.06 * np.tanh((SECONDS - onset) / width))  # Doppler's shift
        hum = np.exp(3 * (np.cos(phase(engine)) - 1)) - 0.25
        clip += rng.uniform(0.4, 1.0) * near * (tyres + 0.7 * low + rng.uniform(0.4, 1.2) * hum)
    return clip


# Events --------------------------------------------------------------------------------------------------------------


def bird(rng):
    """A song of motifs: whistled syllables that glide, arch or warble, the motif repeated with small changes."""
    base, rate = log_uniform(rng, 2000, 4200), rng.uniform(0.8, 1.5)
    syllables = []
    for _ in range(rng.integers(2, 6)):
        length = int(log_uniform(rng, 0.05, 0.22) * SAMPLE_RATE)
        position = np.linspace(0, 1, length, dtype=np.float32)
        glide = rng.uniform(-0.35, 0.35) * position + rng.uniform(-0.3, 0.3) * np.sin(np.pi * position)
        warble = rng.choice([0, 0, 0.06, 0.12]) * np.sin(2 * np.pi * rng.uniform(20, 45) * SECONDS[:length])
        turn = phase(np.clip(base * rng.uniform(0.75, 1.4) * np.exp(glide + warble), 1200, 7400))
        tone = np.sin(turn) + rng.uniform(0, 0.3) * np.sin(2 * turn) * (base < 3000)
        tone *= rng.uniform(0.5, 1) * bump(length, 0.25 * length, 0.45 * length)
        syllables.append((tone, rng.uniform(0.02, 0.12)))
    onsets, pieces, now = [], [], rng.uniform(0.1, 0.8)
    while now < 7.6:
        for piece, pause in syllables * (1 + (rng.random() < 0.3)):
            onsets.append(min(now, 7.99))
            pieces.append(piece)
            now += len(piece) / SAMPLE_RATE + pause
        now += rate * rng.uniform(0.35, 0.9)
    return place(onsets, pieces)


def dog(rng):
    """Barks in ones to threes: a short throat pulse that snaps open; the pitch goes with the size of the dog."""
    size = rng.uniform(0, 1)  # from lap dog to mastiff
    base = 620 * (230 / 620) ** size * rng.uniform(0.9, 1.1)
    tract = np.array([1250, 2300, 3900]) * 1.25 * 0.52**size
    onsets, pieces, now = [], [], rng.uniform(0.1, 0.8)
    while now < 7.7:
        for _ in range(rng.choice([1, 2, 2, 3])):
            length = int(rng.uniform(0.13, 0.22) * (1 + 0.4 * size) * SAMPLE_RATE)
            position = np.linspace(0, 1, length, dtype=np.float32)
            pitch = base * rng.uniform(0.92, 1.08) * (0.75 + 0.5 * np.sin(np.pi * position**0.6))
            voice = throat(rng, pitch, 6.0, 0.35)
            bark = formants(voice, tract * rng.uniform(0.95, 1.05), (260, 350, 600), (1.0, 0.6, 0.3))
            onsets.append(min(now, 7.99))
            pieces.append(rng.uniform(0.7, 1) * bark * bump(length, 0.012 * SAMPLE_RATE, 0.7 * length))
            now += length / SAMPLE_RATE + rng.uniform(0.06, 0.18)
        now += rng.uniform(0.3, 1.1)
    return place(onsets, pieces)


def cow(rng):
    """Moos: a long low tone, hummed first, then the mouth opens and closes again."""
    base = log_uniform(rng, 105, 190)
    mouth = rng.uniform(0.85, 1.2)
    onsets, pieces, now = [], [], rng.uniform(0.0, 1.0)
    while now < 6.9:
        length = int(rng.uniform(1.1, 2.2) * SAMPLE_RATE)
        position = np.linspace(0, 1, length, dtype=np.float32)
        pitch = base * (0.85 + 0.3 * np.sin(np.pi * position**0.8)) * (1 - 0.12 * position)
        voice = throat(rng, pitch, 9.0, 0.08)
        closed = formants(voice, (220 * mouth, 900 * mouth), (90, 300), (1.0, 0.06))
        opened = formants(voice, (480 * mouth, 850 * mouth, 2300 * mouth), (120, 180, 400), (1.0, 0.8, 0.3))
        jaw = np.clip(np.sin(np.pi * position**0.7) * 1.5 - 0.35, 0, 1)
        onsets.append(now)
        pieces.append(((1 - jaw) * closed + jaw * opened) * bump(length, 0.12 * length, 0.25 * length))
        now += length / SAMPLE_RATE + rng.uniform(0.4, 1.3)
    return place(onsets, pieces)


def frog(rng):
    """Croaks: a rattle of pulses, each ringing in the vocal sac; slow and deep or quick and high, in two parts."""
    sac = log_uniform(rng, 450, 1100)
    pulses = log_uniform(rng, 28, 70)
    parts = rng.choice([1, 2])  # «quaak» or «ribb-it»
    croaks = []
    for part in range(parts):
        length = int(log_uniform(rng, 0.14, 0.4) * SAMPLE_RATE)
        rate = pulses * np.linspace(1, rng.uniform(0.8, 1.5), length, dtype=np.float32)
        source = throat(rng, rate, 60.0, 0.25)
        pitch = sac * (1 + 0.25 * part)
        croak = formants(source, (pitch, pitch * rng.uniform(1.9, 2.6), 3000), (130, 220, 600), (1.0, 0.8, 0.12))
        croaks.append(croak * bump(length, 0.2 * length, 0.3 * length))
    gap = np.zeros(int(rng.uniform(0.02, 0.08) * SAMPLE_RATE), np.float32)
    call = np.concatenate([np.concatenate([croak, gap]) for croak in croaks])
    onsets = rhythm(rng, len(call) / SAMPLE_RATE + rng.uniform(0.15, 0.6), 0.06)
    return place(onsets, rng.uniform(0.6, 1, (len(onsets), 1)) * call)


def bell(rng):
    """A cast bell swung or struck: hum, prime, minor third, fifth, octave and the partials above (Rayleigh, 1890)."""
    prime = log_uniform(rng, 260, 800)
    ratios = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.51, 2.67, 3.01, 4.17, 5.43]) * rng.uniform(0.985, 1.015, 10)
    length = int(3.0 * SAMPLE_RATE)
    ringing = modes(prime * ratios, rng.uniform(3.5, 7.0) / ratios**0.8, length)
    ringing *= (1 - np.exp(-SECONDS[:length] / 0.0015)) * np.minimum(1, (length - np.arange(length)) / 1600)
    onsets = rhythm(rng, log_uniform(rng, 0.8, 2.0), 0.03)
    hardness = rng.uniform(0.5, 1.1) + rng.normal(0, 0.15, (len(onsets), 1))
    weights = rng.uniform(0.5, 1, 10) * np.array([0.5, 0.8, 1, 0.5, 1.2, 0.5, 0.5, 0.7, 0.5, 0.4])
    return place(onsets, (weights * ratios ** (hardness - 0.8)).astype(np.float32) @ ringing)


def clock(rng):
    """Tick, tock: two clicks of gear and case, in an even beat."""
    clicks = []
    body, gear = log_uniform(rng, 500, 1300), log_uniform(rng, 1800, 4200)
    for tone in (1.0, rng.uniform(0.72, 0.88)):
        frequencies = np.concatenate([body * tone * np.array([1, 1.7]), gear * tone * np.array([1, 1.31, 1.83])])
        ring = np.array([0.7, 0.4, 1, 0.7, 0.5]) @ modes(frequencies, rng.uniform(0.03, 0.12, 5), 1900)
        tap = rng.standard_normal(1900, np.float32) * np.exp(-SECONDS[:1900] / 0.0012)
        clicks.append(ring + 0.6 * tap)
        if rng.random() < 0.6:  # the escapement's second, fainter touch
            clicks[-1] += 0.4 * np.roll(clicks[-1], int(0.022 * SAMPLE_RATE)) * (np.arange(1900) > 352)
    onsets = rhythm(rng, 1 / rng.uniform(1.8, 5.0), 0.006)
    return place(onsets, np.stack(clicks)[np.arange(len(onsets)) % 2] * rng.uniform(0.85, 1, (len(onsets), 1)))


def car_horn(rng):
    """Honks of two discs about a third apart, buzzing with harmonics."""
    low = log_uniform(rng, 290, 460)
    pair = np.zeros(LENGTH, np.float32)
    for pitch in (low, low * rng.uniform(1.18, 1.3)):
        turn = phase(np.full(LENGTH, pitch) * (1 + 0.002 * wander(rng, -1, 1, 6)))
        pair += np.exp(rng.uniform(4, 14) * (np.cos(turn) - 1)) - 0.15
    pair = formants(pair, (rng.uniform(700, 1300), rng.uniform(2000, 3200)), (700, 1400), (1.0, 0.8)) + 0.15 * pair
    gate, now = np.zeros(LENGTH, np.float32), rng.uniform(0.1, 0.9)
    while now < 7.6:
        for _ in range(rng.integers(1, 4)):
            start, length = int(now * SAMPLE_RATE), int(log_uniform(rng, 0.15, 0.9) * SAMPLE_RATE)
            part = gate[start : start + length]
            part[:] = bump(length, 300, 500)[: len(part)]
            now += length / SAMPLE_RATE + rng.uniform(0.08, 0.2)
        now += rng.uniform(0.4, 1.3)
    return pair * gate


def train(rng):
    """A steam engine: four chuffs to the turn of a wheel, slowly gaining, and the whistle's chord now and then."""
    rate = log_uniform(rng, 2.2, 5.5) * np.linspace(1, rng.uniform(0.9, 1.4), LENGTH, dtype=np.float32)
    turns = np.cumsum(rate, dtype=np.float64) / SAMPLE_RATE + rng.uniform(0, 4)
    accents = rng.uniform(0.6, 1, 4)[(turns.astype(int)) % 4]
    position = (turns % 1).astype(np.float32)
    stroke = np.exp(-position * rng.uniform(4, 8)) * np.clip(position / 0.08, 0, 1)
    steam = noise(rng, log_uniform(rng, 150, 350), log_uniform(rng, 1500, 3500), 3) + 0.5 * noise(rng, 60, 160)
    clip = accents * stroke * steam + 0.04 * noise(rng, 100, 2000, 2)
    pipes = log_uniform(rng, 380, 700) * np.array([1, 1.26, 1.5, 1.89])[: rng.integers(3, 5)]
    onset = rng.uniform(0.0, 4.0)
    for length in rng.uniform(0.5, 1.4, rng.integers(1, 4)):
        count = int(length * SAMPLE_RATE)
        scoop = 1 - 0.08 * np.exp(-SECONDS[:count] / 0.08)
        chord = sum(np.sin(phase(pipe * scoop)) + 0.3 * np.sin(phase(2 * pipe * scoop)) for pipe in pipes)
        blow = (chord + 0.5 * noise(rng, 500, 5000, 2, count)) * bump(count, 900, 2400)
        clip += place([onset], [rng.uniform(0.12, 0.22) * blow])
        onset = min(onset + length + rng.uniform(0.3, 2.0), 7.9)
    return clip


def helicopter(rng):
    """Rotor blades: noise beaten into thuds ten to twenty times a second, an engine's whine above."""
    rate = log_uniform(rng, 9.5, 18) * (1 + 0.03 * wander(rng, -1, 1, 0.4))
    turn = phase(rate)
    thud = np.exp(rng.uniform(4, 10) * (np.cos(turn) - 1))
    slap = noise(rng, 70, log_uniform(rng, 250, 600), 3) + rng.uniform(0.2, 0.5) * noise(rng, 500, 3500, 3)
    whine = sum(np.sin(phase(rate * ratio)) for ratio in rng.uniform(25, 80, 3))
    clip = thud * slap + 0.1 * (0.3 + thud) * noise(rng, 300, 4000, 3) + rng.uniform(0.01, 0.05) * whine
    return clip * wander(rng, 0.5, 1.0, 0.4)


def siren(rng):
    """An emergency vehicle: hi-lo in fourths, a slow wail, or a quick yelp."""
    low = log_uniform(rng, 430, 720)
    kind = rng.choice(["hi-lo", "wail", "yelp"])
    if kind == "hi-lo":
        step = (SECONDS / rng.uniform(0.45, 0.9) + rng.uniform(0, 2)) % 2 < 1
        pitch = low * np.where(step, 1.0, rng.uniform(1.25, 1.42))
    else:
        cycle = rng.uniform(2.5, 5.0) if kind == "wail" else rng.uniform(0.28, 0.45)
        position = (SECONDS / cycle + rng.uniform(0, 1)) % 1
        rise = rng.uniform(0.4, 0.6)
        pitch = low * rng.uniform(1.8, 2.5) ** np.where(position < rise, position / rise, (1 - position) / (1 - rise))
    pitch = signal.lfilter([0.004], [1, -0.996], pitch - pitch[0]) + pitch[0]  # a horn cannot jump
    turn = phase(pitch * (1 + 0.02 * np.tanh(SECONDS - rng.uniform(2, 6)) * rng.choice([-1, 1])))
    tone = np.exp(rng.uniform(1.5, 5) * (np.cos(turn) - 1))
    return (tone - tone.mean()) * wander(rng, 0.6, 1.0, 0.4)


def drum(rng):
    """A rhythm of two hand drums: a membrane's modes, whose pitch falls after the stroke, and the skin's slap."""
    ratios = np.array([1, 1.59, 2.14, 2.30, 2.65, 2.92])
    low = log_uniform(rng, 80, 170)
    length = int(0.5 * SAMPLE_RATE)
    hits = []
    for base in (low, low * rng.uniform(1.35, 1.8)):
        drop = 1 + 0.35 * np.exp(-SECONDS[:length] / 0.02)
        turn = np.cumsum(drop, dtype=np.float64) / SAMPLE_RATE
        decay = rng.uniform(0.2, 0.5) / ratios[:, None] ** 0.8
        ring = np.exp(-6.9 / decay * SECONDS[:length]) * np.sin(2 * np.pi * base * ratios[:, None] * turn)
        slap = noise(rng, 400, 4000, 3, length) * np.exp(-SECONDS[:length] / rng.uniform(0.005, 0.02))
        muffled = rng.uniform(0.3, 1, 6) * (ratios < rng.uniform(1.6, 3.1))
        hits.append(muffled @ ring + rng.uniform(0.2, 0.7) * slap)
        hits[-1] *= np.minimum(1, (length - np.arange(length)) / 800)
    steps = 8
    beat = 60 / rng.uniform(85, 150) / 2
    pattern = np.where(rng.random(steps) < 0.65, rng.uniform(0.35, 1, steps), 0)
    pattern[0] = 1
    voices = rng.integers(0, 2, steps)
    onsets = np.arange(rng.uniform(0, 0.4), 7.9, beat)
    step = np.arange(len(onsets)) % steps
    played = pattern[step] > 0
    pieces = np.stack(hits)[voices[step]] * pattern[step][:, None]
    return place(onsets[played] + rng.uniform(0, 0.006, played.sum()), pieces[played])


def thunder(rng):
    """A crack when it strikes near, then the rumble rolling in from along the bolt and fading."""
    clip = np.zeros(LENGTH, np.float32)
    rumble = noise(rng, log_uniform(rng, 35, 60), log_uniform(rng, 130, 300), 3)
    crack = noise(rng, 200, 4000, 5)
    onset = rng.uniform(0.1, 2.4)
    while onset < 6.5:
        behind = np.maximum(SECONDS - onset, 0)
        roll = behind**0.5 * np.exp(-behind / rng.uniform(0.8, 1.6)) * wander(rng, 0.2, 1, 5) ** 1.5
        clip += rumble * roll * 2.2 * (SECONDS > onset)
        for delay in np.sort(rng.exponential(0.12, rng.integers(2, 6))):
            clap = np.maximum(SECONDS - onset - delay, 0)
            clip += rng.uniform(0.2, 0.8) * crack * np.exp(-clap / rng.uniform(0.03, 0.15)) * (clap > 0)
        onset += rng.uniform(2.4, 4.5)
    return clip


def cuckoo(rng):
    """Calls of two hooted notes, the second about a third below the first, in an even rhythm."""
    high, third = rng.uniform(620, 760), rng.uniform(3, 4.2)  # Hz, semitones
    calls, gap = rhythm(rng, rng.uniform(1.1, 1.6), 0.02), rng.uniform(0.3, 0.36)
    onsets, pieces = [], []
    for start, pitch, seconds in ((0, high, 0.17), (gap, high * 2 ** (-third / 12), 0.27)):
        length = int(seconds * rng.uniform(0.85, 1.15) * SAMPLE_RATE)
        turn = phase(pitch * (1 - 0.04 * np.linspace(0, 1, length, dtype=np.float32) ** 2))
        note = np.sin(turn) + rng.uniform(0.05, 0.2) * np.sin(2 * turn) + 0.03 * np.sin(3 * turn)
        onsets += (calls + start).clip(max=7.99).tolist()
        pieces += [note * bump(length, 0.15 * length, 0.4 * length)] * len(calls)
    return place(onsets, pieces)


AMBIENCES = {
    "rain": rain, "wind": wind, "sea": sea, "stream": stream, "fire": fire, "crickets": crickets, "traffic": traffic
}  # fmt: skip
EVENTS = {
    "bird": bird, "dog": dog, "cow": cow, "frog": frog, "bell": bell, "clock": clock, "car horn": car_horn,
    "train": train, "helicopter": helicopter, "siren": siren, "drum": drum, "thunder": thunder,
}  # fmt: skip

UNTAUGHT = {"cuckoo": cuckoo}  # what the embedded model has never met


def synthesise(label, rng):
    """One source: (LENGTH,) float32 at 16 kHz, in a random room, with an RMS of 1 over its louder half of the frames.

    label is a key of AMBIENCES, EVENTS or UNTAUGHT. Levelling by the louder frames keeps a few barks as loud as
    lasting rain.
    """
    clip = room(rng, (AMBIENCES | EVENTS | UNTAUGHT)[label](rng).astype(np.float32))
    power = np.sort(np.mean(clip.reshape(-1, 1600) ** 2, axis=1))
    clip /= np.sqrt(power[len(power) // 2 :].mean())
    return 9 * np.tanh(clip / 9)  # as a microphone saturates at the loudest snaps

import numpy as np
import pytest

from soundscapes.sound import augment as module
from soundscapes.sound.augment import LINEAR, RECORDED, SHORT, augment

RATE = 16000
EVERY = [change for change, _ in SHORT + LINEAR + RECORDED]


def tone(frequency, seconds=2.0):
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def white(seed=0, length=2 * RATE):
    return 0.1 * np.random.default_rng(seed).standard_normal(length, np.float32)


def decibels(samples, low, high):
    """Energy (dB) between low and high Hz."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    return 10 * np.log10(power[(frequencies >= low) & (frequencies < high)].sum() + 1e-12)


@pytest.mark.parametrize("change", EVERY, ids=lambda change: change.__name__)
def test_every_augmentation_is_pure_seeded_and_keeps_the_length(change):
    samples = white()
    before = samples.copy()
    changed = [change(samples, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(samples, before)
    assert np.array_equal(changed[0], changed[1]) and not np.array_equal(changed[0], changed[2])
    assert changed[0].shape == samples.shape and changed[0].dtype == np.float32 and np.isfinite(changed[0]).all()
    assert change(tone(440, 0.05), np.random.default_rng(0)).shape == (800,)  # shorter than any room or event
    assert not np.abs(change(np.zeros(RATE, np.float32), np.random.default_rng(0))).any()


def test_augment_draws_some_and_depends_on_the_generator_only():
    samples, drawn = white(), [augment(white(), np.random.default_rng(seed)) for seed in range(60)]
    assert np.array_equal(drawn[3], augment(samples, np.random.default_rng(3)))
    assert all(one.shape == samples.shape and one.dtype == np.float32 and np.abs(one).max() <= 1 for one in drawn)
    peaks = 20 * np.log10([np.abs(one).max() for one in drawn])
    assert peaks.max() > -5 and peaks.min() < -45  # levels over 50 dB
    assert np.array_equal(augment(samples, np.random.default_rng(0), ()), samples)


def test_sources_augmented_one_by_one_sum_to_the_augmented_mixture():
    sources = [white(0), tone(700)]
    for seed in range(10):
        apart = [augment(source, np.random.default_rng(seed), LINEAR) for source in sources]
        together = augment(sources[0] + sources[1], np.random.default_rng(seed), LINEAR)
        assert np.allclose(apart[0] + apart[1], together, atol=1e-4)


def test_speed_moves_the_pitch_by_a_fifth_at_most():
    spectrum = [np.abs(np.fft.rfft(module.speed(tone(1000), np.random.default_rng(seed)))) for seed in range(20)]
    pitches = np.array([one.argmax() for one in spectrum]) / 2  # bins of 0.5 Hz
    assert 790 < pitches.min() < 870 and 1150 < pitches.max() < 1260


def test_a_room_decays_after_the_sound():
    click = np.zeros(2 * RATE, np.float32)
    click[RATE // 2] = 1
    for seed in range(5):
        heard = module.reverberate(click, np.random.default_rng(seed))
        assert not np.abs(heard[: RATE // 2]).max() > 1e-5 and heard[RATE // 2] == pytest.approx(1, abs=1e-5)
        tail = heard[RATE // 2 + 1 :]
        early, late = np.array_split(tail[: np.flatnonzero(np.abs(tail) > 1e-7)[-1]], 2)
        assert np.sum(early**2) > 100 * np.sum(late**2) > 0  # 30 dB in half of the time in which it falls by 60


def test_bands_are_those_of_telephones_low_rates_and_small_loudspeakers():
    heard = [module.band(white(), np.random.default_rng(seed)) for seed in range(30)]
    lost = np.array([[decibels(white(), *edges) - decibels(one, *edges) for one in heard] for edges in
                     ((30, 90), (1000, 1500), (7500, 8000))])  # fmt: skip
    assert np.abs(lost[1]).max() < 0.1  # the middle passes
    telephone = (lost[0] > 30) & (lost[2] > 30)
    assert (lost[0] < 0.1).any() and ((lost[0] > 10) & (lost[2] < 12)).any()
    assert telephone.any()
    line = heard[int(np.flatnonzero(telephone)[0])]
    assert abs(decibels(line, 320, 3300) - decibels(white(), 320, 3300)) < 0.1
    assert decibels(line, 4300, 5300) < decibels(white(), 4300, 5300) - 30


def test_equalisation_stays_within_twelve_decibels():
    gains = [
        decibels(module.equalise(white(), np.random.default_rng(seed)), low, 1.2 * low)
        - decibels(white(), low, 1.2 * low)
        for seed in range(10)
        for low in (100, 400, 1600, 6000)
    ]
    assert -12.1 < min(gains) < -5 and 5 < max(gains) < 12.1


def test_background_lies_zero_to_forty_decibels_below_the_sound():
    added = [module.background(tone(440), np.random.default_rng(seed)) - tone(440) for seed in range(30)]
    below = [20 * np.log10(tone(440).std() / one.std()) for one in added]
    assert -8 < min(below) < 10 and 30 < max(below) < 41


def test_clipping_cuts_a_tenth_of_the_samples_at_most():
    for seed in range(10):
        cut = module.clip(white(), np.random.default_rng(seed))
        assert 0.0005 < (np.abs(cut) == np.abs(cut).max()).mean() < 0.11
        inside = np.abs(white()) < np.abs(cut).max()
        assert np.array_equal(cut[inside], white()[inside])


def test_codec_quantises_loud_and_faint_alike():
    faint = tone(440) / 100  # a linear quantiser of eight bits errs by 28% of it, of five bits it loses it
    both = np.concatenate([tone(440), faint])
    for seed in range(10):
        coded = module.codec(both, np.random.default_rng(seed))
        assert len(np.unique(coded)) <= 255
        loud_error, faint_error = np.std(np.split(coded - both, 2), axis=1) / (tone(440).std(), faint.std())
        assert 0 < loud_error < 0.15 and 0 < faint_error < 0.2


def test_short_events_are_repeated_or_followed_by_silence():
    samples = 0.001 * white(length=8 * RATE)
    samples[5 * RATE : 5 * RATE + 800] += tone(1000, 0.05)
    repeated = 0
    for seed in range(30):
        short = module.shorten(samples, np.random.default_rng(seed))
        events = np.abs(short).reshape(-1, 1600).max(1) > 0.1
        assert events.any()  # the loudest moment is kept
        silent = (short == 0).mean()
        assert silent < 0.01 or silent > 0.4
        repeated += silent < 0.01
    assert 5 < repeated < 25

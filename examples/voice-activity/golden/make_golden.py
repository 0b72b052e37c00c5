"""Writes speech.wav, golden.json and ../test_input.json: a fixed text as espeak-ng speaks it, and what the Python package silero-vad says
about it.

Run the script again only when the model or the versions change (from the root of the repository):

    apt-get install -y espeak-ng
    python3 -m venv reference
    reference/bin/pip install torch==2.11.0 silero-vad==6.2.3 numpy==2.4.6
    reference/bin/python examples/voice-activity/golden/make_golden.py
"""

import base64
import io
import json
import pathlib
import random
import subprocess
import wave

import numpy
import silero_vad
import torch

RATE = 16000
# Each is followed by a pause of this many seconds.
SENTENCES = [
    ("Good morning, and welcome.", 0.9),
    ("Yes.", 0.35),
    ("The train leaves at ten past nine.", 0.2),
    ("Mind the gap.", 0.7),
]
# Arguments of get_speech_timestamps; those of the handler have nearly the same names.
CASES = {
    "defaults": {},
    "8 kHz": {"sampling_rate": 8000},
    "a low threshold": {"threshold": 0.2},
    "a high threshold": {"threshold": 0.85},
    "only long silence separates": {"min_silence_duration_ms": 600},
    "short speech is left out": {"min_speech_duration_ms": 900},
    "no silence is needed, and the padding overlaps": {"min_silence_duration_ms": 0, "speech_pad_ms": 300},
    "everything counts, without padding": {"threshold": 0.3, "min_speech_duration_ms": 0, "speech_pad_ms": 0},
}


def speak(text):
    """The text as 16 kHz samples. espeak-ng knows no other rate than 22,050 Hz."""
    path = pathlib.Path("/tmp/voice-activity-sentence.wav")
    subprocess.run(["espeak-ng", "-v", "en-gb", "-s", "165", "-w", str(path), text], check=True)
    with wave.open(str(path)) as file:
        samples = numpy.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(float)
        rate = file.getframerate()
    path.unlink()
    length = len(samples) * RATE // rate
    spectrum = numpy.fft.rfft(samples)[: length // 2 + 1]
    return numpy.fft.irfft(spectrum, length) * length / len(samples)


def wav(samples, rate, width):
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(rate)
        # 8-bit samples have no sign.
        eight = numpy.clip(samples // 256 + 128, 0, 255).astype("u1")
        file.writeframes((eight if width == 1 else samples.astype("<i2")).tobytes())
    return data.getvalue()


def probabilities(model, audio, rate):
    window = rate * 32 // 1000
    model.reset_states()
    windows = torch.nn.functional.pad(audio, (0, -len(audio) % window)).split(window)
    with torch.no_grad():
        return [round(model(one, rate).item(), 5) for one in windows]


def sequence():
    """Random probabilities, which reach states that speech seldom reaches, and their segments."""
    scores = []
    while len(scores) < 40:
        scores += [round(random.uniform(*random.choice([(0, 0.4), (0.3, 0.6), (0.6, 1)])), 2)] * random.randint(1, 4)
    arguments = {
        "threshold": random.choice([0.105, 0.505, 0.705]),
        "min_speech_duration_ms": random.choice([0, 50, 100]),
        "min_silence_duration_ms": random.choice([0, 40, 100]),
        "speech_pad_ms": random.choice([0, 10, 30, 50, 150]),
    }
    length = 512 * len(scores) - random.randrange(512)
    segments = silero_vad.get_speech_timestamps_from_probs(scores, audio_length_samples=length, **arguments)
    segments = [[one["start"], one["end"]] for one in segments]
    return {"scores": scores, "arguments": arguments, "length": length, "segments": segments}


random = random.Random(1)
torch.set_num_threads(1)
folder = pathlib.Path(__file__).parent
noise = numpy.random.default_rng(1)
parts = [numpy.zeros(int(0.5 * RATE))]
for text, pause in SENTENCES:
    parts += [speak(text), numpy.zeros(int(pause * RATE))]
samples = numpy.concatenate(parts) * 0.6
samples = numpy.clip(numpy.round(samples + noise.normal(0, 12, len(samples))), -32768, 32767).astype(int)

(folder / "speech.wav").write_bytes(wav(samples, RATE, 2))
start = wav(samples[: int(1.8 * RATE) : 2], 8000, 1)
job = {"input": {"audio": "data:audio/wav;base64," + base64.b64encode(start).decode()}}
(folder.parent / "test_input.json").write_text(json.dumps(job) + "\n")

model = silero_vad.load_silero_vad()
audio = torch.from_numpy(samples.astype("f4") / 32768)
# The test makes the 8 kHz file in the same way.
audio = {16000: audio, 8000: audio[::2]}
scores = {rate: probabilities(model, samples, rate) for rate, samples in audio.items()}
cases = []
for name, arguments in CASES.items():
    rate = arguments.get("sampling_rate", 16000)
    segments = silero_vad.get_speech_timestamps(audio[rate], model, **arguments)
    cases.append({"name": name, "arguments": arguments, "segments": [[one["start"], one["end"]] for one in segments]})
    # So that the last digits of a score cannot change the segments.
    threshold = arguments.get("threshold", 0.5)
    for limit in threshold, threshold - 0.15:
        assert min(abs(score - limit) for score in scores[rate]) > 0.001, name
golden = {"cases": cases, "probabilities": scores, "sequences": [sequence() for _ in range(60)]}
(folder / "golden.json").write_text(json.dumps(golden) + "\n")

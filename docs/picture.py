"""Draw docs/two_talkers.png, and write the separated talkers of docs/listen.md beside it.

pip install -c constraints.txt '.[show,eval]' && python docs/picture.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import soundfile
import torch
from matplotlib.figure import Figure

import dpcl
from dpcl.evaluation.figures import STYLE, Grid, draw_spectrogram
from dpcl.evaluation.metrics import score
from dpcl.signal.audio import read_audio
from dpcl.signal.stft import STFT

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    names = ("two_talkers", "two_talkers_ref1", "two_talkers_ref2")
    files = [read_audio(ROOT / f"examples/{name}.flac") for name in names]
    mixture, *references = (torch.from_numpy(samples[0]) for samples, _ in files)
    rate = files[0][1]
    separation = dpcl.separate(mixture, rate)
    estimates = separation.sources
    scores = score(estimates, torch.stack(references), mixture)
    signals = {"mixture": (mixture, "mixture")}
    for k in range(2):
        title = f"talker {k + 1}, separated: SI-SDR {float(scores.si_sdr[k]):+.1f} dB"
        signals[f"s{k + 1}"] = (estimates[scores.estimate[k]], title)
        signals[f"r{k + 1}"] = (references[k], f"talker {k + 1}, as mixed")
    sounds = {f"s{k + 1}": signals[f"s{k + 1}"][0] for k in range(2)}
    for name, sound in {**sounds, "background": separation.background}.items():
        path = Path(__file__).with_name(f"two_talkers_{name}.flac")
        soundfile.write(path, sound.numpy(), rate, subtype="PCM_16")
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplot_mosaic(
        [["mixture", "s1", "r1"], ["mixture", "s2", "r2"]], sharex=True, sharey=True
    )
    stft = STFT(1024, 256)
    grid = Grid(stft.hop / rate, rate / stft.window)
    loudest = float(stft(mixture).abs().max())
    for place, (signal, title) in signals.items():
        image = draw_spectrogram(axes[place], stft(signal).abs(), grid, loudest)
        axes[place].set_title(title)
        axes[place].label_outer()
    axes["mixture"].set(xlim=(0, len(mixture) / rate), ylim=(0, 5))
    figure.colorbar(image, ax=list(axes.values()), pad=0.01, aspect=40).set_label("dB", labelpad=6)
    figure.savefig(Path(__file__).with_name("two_talkers.png"), dpi=120)


if __name__ == "__main__":
    with matplotlib.rc_context(STYLE):
        main()

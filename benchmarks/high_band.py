"""Above the network's reach: which rule for the masks there is best, on 16 kHz references.

    python benchmarks/high_band.py --root CORPUS

The network hears 8 kHz; a recording of 16 kHz has 4 to 8 kHz as well. Its masks are laid over the
recording's own STFT as dpcl.signal.band does, with one rule after another for what lies
beyond the last bin within reach, and the sources are scored: SI-SDRi of the whole band, and the
SNR of the band above the reach alone (no scale is forgiven there: the level of a fricative is part
of the answer). "Ideal" is the ideal binary mask above the reach, the network's masks below it.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import dpcl
from dpcl.evaluation.metrics import best_permutation, si_sdr
from dpcl.mixtures.lists import read_list, render_mixture
from dpcl.signal.audio import resample
from dpcl.signal.band import REACH
from dpcl.signal.stft import STFT

SAMPLE_RATE = 16_000
RESULTS = Path(__file__).resolve().parent / "results" / "high_band.json"

Rule = Callable[[Tensor, Tensor], Tensor]  # masks (C, L, R), energy (L, R) -> (C, L)


def mean_from(start: float, power: float) -> Rule:
    """The mean over the bins above this fraction of the reach, weighted by energy ** power."""

    def rule(masks: Tensor, energy: Tensor) -> Tensor:
        upper = slice(int(start * energy.shape[-1]), None)
        weights = (energy[:, upper] + torch.finfo(torch.float32).tiny) ** power
        return (masks[..., upper] * weights).sum(-1) / weights.sum(-1)

    return rule


def last_bin(masks: Tensor, energy: Tensor) -> Tensor:
    return masks[..., -1]


def equal(masks: Tensor, energy: Tensor) -> Tensor:
    return torch.full_like(masks[..., 0], 1 / len(masks))


def sharpened(rule: Rule, exponent: float | None) -> Rule:
    """Shares to a power, and again adding up to one; None gives all to the largest."""

    def sharp(masks: Tensor, energy: Tensor) -> Tensor:
        shares = rule(masks, energy)  # (C, L)
        if exponent is None:
            return functional.one_hot(shares.argmax(0), len(shares)).T.to(shares.dtype)
        powers = shares**exponent
        return powers / powers.sum(0)

    return sharp


def smoothed(rule: Rule, frames: int) -> Rule:
    """The mean of the shares over so many frames, an odd number."""

    def smooth(masks: Tensor, energy: Tensor) -> Tensor:
        shares = rule(masks, energy)[:, None]  # (C, 1, L)
        padded = functional.pad(shares, (frames // 2, frames // 2), mode="replicate")
        return functional.avg_pool1d(padded, frames, 1)[:, 0]

    return smooth


HALF, QUARTER, EIGHTH = (mean_from(start, 1.0) for start in (0.5, 0.75, 0.875))
RULES: dict[str, Rule] = {
    "last bin in reach": last_bin,
    "last bin, square root": sharpened(last_bin, 0.5),
    "last bin, fourth root": sharpened(last_bin, 0.25),
    "mean of the upper half": mean_from(0.5, 0.0),
    "mean of the upper quarter": mean_from(0.75, 0.0),
    "by magnitude, upper half": mean_from(0.5, 0.5),
    "by energy, upper half": HALF,
    "by energy, upper half over 9 frames": smoothed(HALF, 9),
    "by energy, upper half, binary": sharpened(HALF, None),
    "by energy, upper half, squared": sharpened(HALF, 2.0),
    "by energy, upper half, square root": sharpened(HALF, 0.5),
    "by energy, upper half, fourth root": sharpened(HALF, 0.25),
    "by energy, upper quarter": QUARTER,
    "by energy, upper quarter, binary": sharpened(QUARTER, None),
    "by energy, upper quarter, square root": sharpened(QUARTER, 0.5),
    "by energy, upper quarter, fourth root": sharpened(QUARTER, 0.25),
    "by energy, upper eighth": EIGHTH,
    "by energy, upper eighth, square root (in use)": sharpened(EIGHTH, 0.5),
    "by energy, upper eighth, fourth root": sharpened(EIGHTH, 0.25),
    "by energy, all of the frame": mean_from(0.0, 1.0),
    "equal shares": equal,
}
IDEAL, SILENT = "ideal binary mask above the reach", "nothing above the reach"


def snr(estimates: Tensor, references: Tensor) -> Tensor:
    """(C, L, F) spectra -> (C,) in dB; NaN for a source that has nothing there."""
    signal = references.abs().square().sum((-2, -1))
    noise = (references - estimates).abs().square().sum((-2, -1))
    return torch.where(signal > 0, 10 * (signal / noise).log10(), torch.nan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", type=Path, default=Path("lists/valid2.csv"))
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--model", default="default", help="name or path")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON (default %(default)s)")
    arguments = parser.parse_args()

    separator = dpcl.load_separator(arguments.model)
    times = SAMPLE_RATE // separator.sample_rate
    assert times * separator.sample_rate == SAMPLE_RATE, "frames must meet those of the network"
    stft = STFT(times * separator.stft.window, times * separator.stft.hop)
    reach = int(REACH * (separator.stft.bins - 1))  # bins of both are as far apart
    whole: dict[str, list[float]] = defaultdict(list)
    above: dict[str, list[float]] = defaultdict(list)
    rows = read_list(arguments.list)[: arguments.limit]
    for row in rows:
        mixture, references = map(
            torch.from_numpy, render_mixture(row, arguments.root, SAMPLE_RATE)
        )
        heard = resample(mixture.numpy(), SAMPLE_RATE, separator.sample_rate)
        at_network = torch.from_numpy(heard)
        masks = separator(at_network, len(references)).masks
        assert masks is not None
        masks = masks[..., :reach]  # (C, L, R)
        energy = separator.stft(at_network)[:, :reach].abs().square()
        spectrum, truths = stft(mixture), stft(references)  # (L, F), (C, L, F)
        frames = min(len(spectrum), len(energy))
        masks, energy = masks[:, :frames], energy[:frames]
        spectrum, truths = spectrum[:frames], truths[:, :frames]
        # The order is one for all rules: that of what the network hears.
        in_reach = stft.inverse(_filled(masks, spectrum, 0.0) * spectrum, len(mixture))
        order = best_permutation(in_reach, references)
        before = si_sdr(mixture, references)
        owner = truths[..., reach:].abs().argmax(0)
        ideal = functional.one_hot(owner, len(references)).movedim(-1, 0).float()
        shares = {name: rule(masks, energy)[order][..., None] for name, rule in RULES.items()}
        for name, beyond in {**shares, IDEAL: ideal, SILENT: torch.tensor(0.0)}.items():
            laid = _filled(masks[order], spectrum, beyond)
            estimates = laid * spectrum
            scores = si_sdr(stft.inverse(estimates, len(mixture)), references) - before
            whole[name].append(float(scores.mean()))
            scores = snr(estimates[..., reach:], truths[..., reach:])
            above[name].append(float(scores.nanmean()))

    def mean(values: list[float]) -> float:
        return float(torch.tensor(values).nanmean())

    hz = reach * SAMPLE_RATE / stft.window
    print(f"{len(rows)} mixtures of {arguments.list} at {SAMPLE_RATE} Hz; reach {hz:g} Hz\n")
    print("| above the reach | SI-SDRi, dB | SNR of that band alone, dB |\n|---|--:|--:|")
    for name in whole:
        print(f"| {name} | {mean(whole[name]):.3f} | {mean(above[name]):.2f} |")
    document = {"list": str(arguments.list), "model": arguments.model, "reach_hz": hz}
    scores = {name: {"si_sdri": whole[name], "snr_above": above[name]} for name in whole}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({**document, "rules": scores}) + "\n", encoding="utf-8")


def _filled(masks: Tensor, spectrum: Tensor, beyond: Tensor | float) -> Tensor:
    """Masks (C, L, R) carried on to all bins of the spectrum (L, F) by what there is beyond."""
    full = masks.new_zeros(*masks.shape[:2], spectrum.shape[-1])
    full[..., : masks.shape[-1]] = masks
    full[..., masks.shape[-1] :] = beyond
    return full


if __name__ == "__main__":
    main()

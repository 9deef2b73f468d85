"""One peer separates one recording: the program that separation_speed.py runs for every competitor.

    peers/bin/python benchmarks/peers.py asteroid-dc recording.wav out --weights default.safetensors

Runs in the peers' own environment (peers.txt), without dpcl. The two of deep clustering load the
network of --weights; the others have their published size and random weights: same work, no use.
Each does what its own inference does, from the file to two files, and is otherwise left alone.
Prints one line of JSON: seconds from the start of this program until the model stood, and until
all was written. Where asteroid's own loading and writing of files can be used, it is.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402  - the clock above is to run while all else is imported
import json  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

SOURCES = 2
SAMPLE_RATE = 8000  # Hz, of wsj0-2mix, which all were published on

Separate = Callable[[Path, Path], None]  # recording, existing folder


def asteroid_deep_clustering(weights: Path, window: float | None) -> Separate:
    """Our network inside asteroid, separated as its recipe egs/wsj0-mix/DeepClustering does."""
    from asteroid.separate import file_separate
    from peers_asteroid import AsteroidDeepClustering

    model = AsteroidDeepClustering(weights, SOURCES).eval()
    return lambda recording, out: file_separate(model, str(recording), str(out), resample=True)


def nussl_deep_clustering(weights: Path, window: float | None) -> Separate:
    """Our network inside nussl's DeepClustering, with its defaults (soft masks, loudest tenth)."""
    from peers_nussl import nussl_separate

    return nussl_separate(weights, SOURCES)


def conv_tasnet(weights: Path, window: float | None) -> Separate:
    """Luo and Mesgarani 2019, table II, best: N 512, L 16, B 128, H 512, Sc 128, P 3, X 8, R 3."""
    from asteroid.models import ConvTasNet

    return _in_the_time_domain(ConvTasNet(n_src=SOURCES, sample_rate=SAMPLE_RATE), window)


def dprnn(weights: Path, window: float | None) -> Separate:
    """Luo, Chen, Yoshioka 2020, table 2, best: windows of 2 samples, chunks of 250 (18.8 dB)."""
    from asteroid.models import DPRNNTasNet

    model = DPRNNTasNet(
        n_src=SOURCES, n_filters=64, kernel_size=2, stride=1, chunk_size=250, hop_size=125
    )
    return _in_the_time_domain(model, window)


def dprnn_16(weights: Path, window: float | None) -> Separate:
    """The same with windows of 16 samples, chunks of 100: asteroid's default (16.0 dB)."""
    from asteroid.models import DPRNNTasNet

    return _in_the_time_domain(DPRNNTasNet(n_src=SOURCES), window)


def _in_the_time_domain(model: object, window: float | None) -> Separate:
    from asteroid.dsp import LambdaOverlapAdd
    from asteroid.separate import file_separate

    model.eval()
    if window is not None:
        model = LambdaOverlapAdd(model, SOURCES, window_size=round(window * SAMPLE_RATE))
    return lambda recording, out: file_separate(model, str(recording), str(out), resample=True)


def sepformer(weights: Path, window: float | None) -> Separate:
    """Subakan et al. 2021 as in speechbrain/sepformer-wsj02mix: 2 x (8 + 8) layers of 256, K 250.

    Reading, resampling and writing are ours, since its own want torchaudio. A window, if any, is
    cut without overlap.
    """
    import soundfile
    import torch
    from peers_unused import leave_out
    from peers_weights import resample

    leave_out(["torchaudio", "sentencepiece"])
    from speechbrain.inference.separation import SepformerSeparation
    from speechbrain.lobes.models.dual_path import (
        Decoder,
        Dual_Path_Model,
        Encoder,
        SBTransformerBlock,
    )

    def block() -> SBTransformerBlock:
        return SBTransformerBlock(
            num_layers=8,
            d_model=256,
            nhead=8,
            d_ffn=1024,
            dropout=0,
            use_positional_encoding=True,
            norm_before=True,
        )

    modules = {
        "encoder": Encoder(kernel_size=16, out_channels=256),
        "decoder": Decoder(in_channels=256, out_channels=1, kernel_size=16, stride=8, bias=False),
        "masknet": Dual_Path_Model(
            in_channels=256,
            out_channels=256,
            intra_model=block(),
            inter_model=block(),
            num_layers=2,
            norm="ln",
            K=250,
            num_spks=SOURCES,
            skip_around_intra=True,
            linear_layer_after_inter_intra=False,
        ),
    }
    model = SepformerSeparation(modules, {"num_spks": SOURCES, "sample_rate": SAMPLE_RATE}).eval()

    def separate(recording: Path, out: Path) -> None:
        samples, rate = soundfile.read(recording, dtype="float32")
        mixture = torch.from_numpy(resample(samples, rate, SAMPLE_RATE))[None]  # (1, T)
        length = mixture.shape[-1] if window is None else round(window * SAMPLE_RATE)
        with torch.no_grad():
            parts = [model.separate_batch(part) for part in mixture.split(length, -1)]
        sources = torch.cat(parts, 1)[0].T.contiguous()  # (C, T)
        sources /= sources.abs().amax(-1, keepdim=True)
        for number, source in enumerate(sources.numpy(), 1):
            upsampled = resample(source, SAMPLE_RATE, rate)
            soundfile.write(out / f"{recording.stem}_est{number}.wav", upsampled, rate)

    return separate


SYSTEMS: dict[str, Callable[[Path, float | None], Separate]] = {
    "asteroid-dc": asteroid_deep_clustering,
    "nussl-dc": nussl_deep_clustering,
    "conv-tasnet": conv_tasnet,
    "dprnn": dprnn,
    "dprnn-16": dprnn_16,
    "sepformer": sepformer,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("recording", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--window", type=float, help="seconds, for systems cut up; whole if absent")
    arguments = parser.parse_args()
    separate = SYSTEMS[arguments.system](arguments.weights, arguments.window)
    ready = time.perf_counter() - STARTED
    arguments.out.mkdir(parents=True, exist_ok=True)
    separate(arguments.recording, arguments.out)
    print(json.dumps({"ready": ready, "finished": time.perf_counter() - STARTED}))


if __name__ == "__main__":
    main()

"""A recording separated without torch and without dpcl: what a program in another language does.

    dpcl export default --out default.onnx
    python examples/onnx_separation.py default.onnx examples/two_talkers.flac separated

Needs numpy, onnxruntime, scikit-learn, soundfile and soxr. One channel at the network's rate;
`dpcl separate` keeps the recording's own, and does hours.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
import soxr
from sklearn.cluster import KMeans

graph, recording, out = sys.argv[1:]
network = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
about = network.get_modelmeta().custom_metadata_map
rate, window, hop = (int(about[key]) for key in ("sample_rate", "window", "hop"))

samples, own_rate = soundfile.read(recording, dtype="float32", always_2d=True)
mixture = soxr.resample(samples.mean(1), own_rate, rate)  # (T,)

# STFT: square-root Hann, half a window of silence before the beginning
taper = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)
padded = np.pad(mixture, (window // 2, window - window // 2 + -len(mixture) % hop))
frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
spectrum = np.fft.rfft(frames * taper)  # (L, F)
magnitude = np.abs(spectrum).astype(np.float32)

names = [output.name for output in network.get_outputs()]
found = dict(zip(names, network.run(names, {"magnitude": magnitude}), strict=True))
embeddings = found["embeddings"]  # (L, F, K)
talkers = 1 - found.get("background", np.zeros_like(magnitude))  # (L, F), share of the talkers

# k-means on the embeddings; bins of the background, or all but silent, pull no centroid
if about["level"] == "quantile":  # relative to the loud frames, above 70 Hz
    first = max(1, round(70 * window / rate))
    level = np.quantile(np.linalg.norm(magnitude[:, first:], axis=1), 0.9)
    relative = np.minimum(magnitude / level, 1)
    relative[:, :first] = 0
else:  # relative to the loudest bin
    relative = magnitude / magnitude.max()
weights = talkers * np.where(relative >= 10 ** (float(about["floor_db"]) / 20), relative, 0)
points = embeddings.reshape(-1, embeddings.shape[-1])
clusters = KMeans(2, n_init=4, random_state=0).fit(points, sample_weight=weights.ravel())
centroids = clusters.cluster_centers_
centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)

# masks: softmax over the sources; then back to samples, frame upon frame
shares = np.exp(float(about["sharpness"]) * (embeddings @ centroids.T))  # (L, F, C)
masks = talkers[..., None] * shares / shares.sum(-1, keepdims=True)
Path(out).mkdir(parents=True, exist_ok=True)
for source in range(2):
    pieces = np.fft.irfft(spectrum * masks[..., source], window) * taper
    added, envelope = np.zeros(len(padded)), np.zeros(len(padded))
    for number, piece in enumerate(pieces):
        place = slice(number * hop, number * hop + window)
        added[place] += piece
        envelope[place] += taper**2
    first = window // 2
    separated = (added / np.maximum(envelope, 1e-9))[first : first + len(mixture)]
    soundfile.write(Path(out) / f"source_{source + 1}.wav", separated, rate)

"""Deep clustering as a separator: its sources add up to the mixture, whatever the mixture."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpcl.clustering.kmeans import kmeans
from dpcl.errors import FLOOR_DB, InputError
from dpcl.model import MaskSettings, Model, ModelSettings, NetworkSettings, build_network
from dpcl.networks.activity import STRIDE, TalkerActivity
from dpcl.networks.base import EmbeddingNetwork, Heads
from dpcl.recordings.separate import LoadedSeparator
from dpcl.separators import deep_clustering
from dpcl.separators.base import Context, Link, Separation
from dpcl.separators.deep_clustering import FEW, Clusters, DeepClustering
from dpcl.separators.registry import build
from dpcl.signal.features import ideal_assignments
from dpcl.signal.stft import STFT


def separator(**masks: object) -> LoadedSeparator:
    return LoadedSeparator(clustering_of(**masks))


def clustering_of(**masks: object) -> DeepClustering:
    """With a small network that was never trained."""
    chosen = ModelSettings(
        network=NetworkSettings(layers=1, width=8, embedding=6),
        masks=MaskSettings.model_validate(masks),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(chosen).eval()
    network.mean.fill_(-4)
    network.std.fill_(2)
    return DeepClustering(Model(chosen, network, {}))


class Knows(EmbeddingNetwork):
    """Embeds every bin as its ideal assignment: what training strives for."""

    def __init__(self, sources: Tensor) -> None:
        super().__init__(STFT().bins, 1, Heads(embedding=1))
        self.assignments = ideal_assignments(STFT()(sources))  # (L*F, C)

    def encode(self, features: Tensor) -> Tensor:
        return self.assignments.view(1, features.shape[1], -1)  # (1, L, F*C)

    def embed(self, heard: Tensor) -> Tensor:
        return heard.reshape(1, -1, self.assignments.shape[-1])


def oracle(sources: Tensor, **masks: object) -> LoadedSeparator:
    chosen = ModelSettings(masks=MaskSettings.model_validate(masks))
    return LoadedSeparator(DeepClustering(Model(chosen, Knows(sources), {})))


def masks_of(
    clustering: DeepClustering, magnitude: Tensor, centroids: Tensor, several: bool = False
) -> Tensor:
    """Masks (W, C, L, F) of windows of a magnitude (W, L, F), of one window or of several."""
    analysed = clustering.analyse(magnitude[:, None].to(torch.complex64))
    link = Link(len(centroids), state=Clusters(centroids, several))
    windows = enumerate(zip(*analysed, strict=True))
    return torch.stack([clustering.masks(number, window, link) for number, window in windows])


def talkers(*shape: int, seed: int = 0) -> Tensor:
    """Noise that comes and goes, each source at its own times and with its own colour."""
    generator = torch.Generator().manual_seed(seed)
    gates = torch.rand(*shape[:-1], shape[-1] // 400 + 1, generator=generator) > 0.4
    noise = torch.randn(*shape, generator=generator)
    noise = noise * gates.repeat_interleave(400, dim=-1)[..., : shape[-1]]
    if len(shape) > 1 and shape[-2] > 1:
        noise[..., 0, 1:] += 0.9 * noise[..., 0, :-1]
        noise[..., 1, 1:] -= 0.9 * noise[..., 1, :-1]
    return noise


def assert_adds_up(separation: Separation, mixture: Tensor) -> None:
    masks, embeddings = separation.masks, separation.embeddings
    assert masks is not None
    assert embeddings is not None
    for tensor in (separation.sources, masks, embeddings):
        assert tensor.isfinite().all()
    assert masks.min() >= 0
    torch.testing.assert_close(
        masks.sum(-3), torch.ones_like(masks.select(-3, 0)), rtol=0, atol=1e-5
    )
    scale = max(float(mixture.abs().max()), 1e-30)
    assert (separation.sources.sum(-2) - mixture).abs().max() <= 1e-5 * scale
    norms = embeddings.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sharpness", [None, 10.0])
@given(
    samples=st.integers(1, 1200),
    num_sources=st.sampled_from([None, 1, 2, 3, 5]),
    scale=st.sampled_from([1e-20, 1e-4, 1.0, 1e4]),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=20)
def test_masks_sum_to_one_and_sources_to_the_mixture(
    sharpness: float | None, samples: int, num_sources: int | None, scale: float, seed: int
) -> None:
    """asteroid gives silent bins to every source: its estimates do not add up to the mixture."""
    mixture = scale * talkers(samples, seed=seed)
    separation = separator(sharpness=sharpness)(mixture, num_sources)
    count = num_sources or 2
    assert separation.sources.shape == (count, samples)
    assert separation.masks is not None
    assert separation.masks.shape == (count, STFT().frames(samples), 129)
    assert separation.embeddings is not None
    assert separation.embeddings.shape == (STFT().frames(samples), 129, 6)
    assert_adds_up(separation, mixture)


@pytest.mark.parametrize("sharpness", [None, 10.0])
@pytest.mark.parametrize("num_sources", [1, 2, 3])
@pytest.mark.parametrize("samples", [1, 63, 4000])
def test_silence_gives_finite_silence(
    samples: int, num_sources: int, sharpness: float | None
) -> None:
    mixture = torch.zeros(samples)
    separation = separator(sharpness=sharpness)(mixture, num_sources)
    assert_adds_up(separation, mixture)
    assert not separation.sources.any()


def test_one_sample() -> None:
    mixture = torch.tensor([0.7])
    for num_sources in (1, 2, 10):
        separation = separator()(mixture, num_sources)
        assert separation.sources.shape == (num_sources, 1)
        assert_adds_up(separation, mixture)


def test_one_source_is_the_mixture() -> None:
    mixture = talkers(3000)
    for sharpness in (None, 10.0):
        separation = separator(sharpness=sharpness)(mixture, 1)
        torch.testing.assert_close(separation.sources[0], mixture, rtol=0, atol=1e-5)


def test_a_talker_alone_among_silent_ones() -> None:
    """Embeddings in one point: every cluster but one is empty at first."""
    sources = talkers(2, 3000)
    sources[1] = 0
    for sharpness in (None, 10.0):
        for num_sources in (1, 2, 3):
            separation = oracle(sources, sharpness=sharpness)(sources.sum(0), num_sources)
            assert_adds_up(separation, sources.sum(0))
    alone = oracle(sources)(sources.sum(0), 2).sources
    torch.testing.assert_close(alone[0], sources[0], rtol=0, atol=1e-5)
    assert alone[1].abs().max() < 1e-5


@pytest.mark.parametrize("weighting", ["threshold", "magnitude", "energy"])
@pytest.mark.parametrize("num_sources", [2, 3])
def test_ideal_embeddings_give_the_ideal_binary_mask(num_sources: int, weighting: str) -> None:
    sources = talkers(num_sources, 6000, seed=4)
    mixture = sources.sum(0)
    found = oracle(sources, weighting=weighting)(mixture, num_sources)
    ideal = LoadedSeparator(build("ibm", Context(mixture, sources)))(mixture)
    assert found.masks is not None
    assert ideal.masks is not None
    order = [
        next(i for i, mask in enumerate(found.masks) if torch.equal(mask, wanted))
        for wanted in ideal.masks
    ]
    assert sorted(order) == list(range(num_sources))
    torch.testing.assert_close(found.sources[order], ideal.sources)


def test_sharper_soft_masks_are_nearer_to_binary() -> None:
    sources = talkers(2, 4000)
    mixture = sources.sum(0)
    binary = oracle(sources)(mixture).masks
    assert binary is not None
    distances = []
    for sharpness in (1.0, 5.0, 50.0):
        soft = oracle(sources, sharpness=sharpness)(mixture).masks
        assert soft is not None
        distances.append(float((soft - binary).abs().mean()))
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-3


@pytest.mark.parametrize("gain", [128.0, 100.0, 1e-3])
@pytest.mark.parametrize("sharpness", [None, 10.0])
@pytest.mark.parametrize("weighting", ["threshold", "magnitude", "energy"])
def test_the_same_masks_at_any_level(gain: float, sharpness: float | None, weighting: str) -> None:
    """munakata's threshold of silence was absolute."""
    mixture = talkers(2, 8000).sum(0)
    separate = separator(sharpness=sharpness, weighting=weighting)
    masks, other = separate(mixture).masks, separate(gain * mixture).masks
    assert masks is not None
    assert other is not None
    if gain == 128:  # a power of two: not one bit differs
        assert torch.equal(other, masks)
    else:
        assert (other - masks).abs().mean() < 1e-3


@pytest.mark.parametrize("lead", [(1,), (3,), (2, 2)])
def test_any_leading_dimensions(lead: tuple[int, ...]) -> None:
    """Each item as if it were alone."""
    mixture = talkers(*lead, 1500, seed=2)
    mixture.view(-1, 1500)[-1] = 0
    separate = separator()
    together = separate(mixture, 3)
    assert together.sources.shape == (*lead, 3, 1500)
    assert_adds_up(together, mixture)
    assert together.masks is not None
    for i, one in enumerate(mixture.view(-1, 1500)):
        alone = separate(one, 3)
        assert alone.masks is not None
        its_masks = together.masks.reshape(-1, *alone.masks.shape)[i]
        assert (its_masks - alone.masks).abs().mean() < 1e-3


def test_twice_the_same() -> None:
    mixture = talkers(2, 4000).sum(0)
    first = separator()(mixture).sources
    torch.rand(7)
    assert torch.equal(separator()(mixture).sources, first)


def test_double_precision_samples() -> None:
    """numpy's and soundfile's own type; sources are float32, as those of any recording."""
    mixture = talkers(2, 3000).sum(0).double()
    separation = separator()(mixture)
    assert separation.sources.dtype == torch.float32
    assert (separation.sources.sum(0) - mixture).abs().max() < 1e-5
    assert torch.equal(separation.sources, separator()(mixture.float()).sources)


def test_results_are_ordinary_tensors() -> None:
    """Tensors of inference mode cannot be changed in place, nor used where gradients are."""
    mixture = talkers(2, 2000).sum(0).requires_grad_()
    separation = separator()(mixture)
    gain = torch.ones(2, 1, requires_grad=True)
    for tensor in (separation.sources, separation.masks, separation.embeddings):
        assert tensor is not None
        assert not tensor.is_inference()
        assert not tensor.requires_grad
    (gain * separation.sources).square().sum().backward()
    assert gain.grad is not None
    assert gain.grad.isfinite().all()
    separation.sources[0] *= 2
    assert torch.is_grad_enabled()


def test_no_sources_are_not_two() -> None:
    for num_sources in (0, -1):
        with pytest.raises(ValueError, match="give 1 to 10"):
            separator()(talkers(500), num_sources)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_no_numbers(value: float) -> None:
    mixture = talkers(2, 500)
    mixture[1, 77] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        separator()(mixture)


def test_no_samples() -> None:
    with pytest.raises(InputError, match="empty"):
        separator()(torch.zeros(0))
    with pytest.raises(InputError, match="empty"):
        separator()(torch.zeros(2, 0))
    with pytest.raises(InputError, match="empty"):
        separator()(torch.zeros(0, 100))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_the_fast_one_gives_nearly_the_same_masks(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    torch.manual_seed(0)
    chosen = ModelSettings(network=NetworkSettings(layers=2, width=30, embedding=8))
    exact = DeepClustering(Model(chosen, build_network(chosen).eval(), {}))
    monkeypatch.setattr(deep_clustering, "fastest", lambda integers: precision)
    prepared = exact.prepared(FEW + 1)
    assert (prepared is exact) == (precision == "float32")
    assert prepared is exact.prepared(100)  # converted once, for all recordings
    assert exact.prepared(FEW) is exact
    magnitude = torch.rand(2, 200, 129)
    centroids = torch.randn(2, 8)
    with torch.no_grad():
        masks = masks_of(exact, magnitude, centroids)
        fast = masks_of(prepared, magnitude, centroids)
    assert masks.shape == fast.shape == (2, 2, 200, 129)
    assert (masks.argmax(1) == fast.argmax(1)).double().mean() > 0.95


def test_masks_of_frames_in_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    chosen = ModelSettings(network=NetworkSettings(layers=1, width=10, embedding=4))
    clustering = DeepClustering(Model(chosen, build_network(chosen).eval(), {}))
    with torch.no_grad():
        magnitude = torch.rand(2, 70, 129)
        whole = masks_of(clustering, magnitude, torch.eye(4)[:3])
        monkeypatch.setattr(deep_clustering, "FRAMES", 32)
        torch.testing.assert_close(masks_of(clustering, magnitude, torch.eye(4)[:3]), whole)


@pytest.mark.parametrize(
    ("head", "sharpness"), [("embedding", 3.0), ("masks", None), ("masks", 3.0), ("both", 3.0)]
)
def test_a_source_that_is_silent_for_long_is_held_back(head: str, sharpness: float | None) -> None:
    """Whatever the masks are of; no bin is lost: the others get what it gives up."""
    torch.manual_seed(0)
    settings = ModelSettings.model_validate(
        {
            "network": {
                "layers": 1,
                "width": 8,
                "embedding": 2,
                "unfolded": {"width": 4, "alpha": 2.0},
            },
            "masks": {"head": head, "sharpness": sharpness},
        }
    )
    clustering = DeepClustering(Model(settings, build_network(settings).eval(), {}))
    clustering.embed = lambda encoded: torch.eye(2)[0].expand(
        len(encoded), encoded.shape[1] * 129, 2
    )  # type: ignore[method-assign]
    magnitude = 0.1 + torch.rand(1, 100, 129)  # all bins are audible
    with torch.no_grad():
        plain = masks_of(clustering, magnitude, torch.eye(2))
        told = masks_of(clustering, magnitude, torch.eye(2), several=True)
    plain_share, share = float(plain[:, 1].mean()), float(told[:, 1].mean())
    assert plain_share > 0.01
    assert share == pytest.approx(min(plain_share, 10 ** (FLOOR_DB / 20)), rel=0.05)
    torch.testing.assert_close(told.sum(1), torch.ones(1, 100, 129))


@pytest.mark.parametrize("masks", [{"sharpness": 5.0}, {"sharpness": None}])
def test_where_all_sources_are_active_who_is_audible_changes_little(
    masks: dict[str, object],
) -> None:
    torch.manual_seed(0)
    clustering = clustering_of(**masks)
    magnitude = 0.1 + torch.rand(1, 300, 129)  # all bins are audible
    with torch.no_grad():
        encoded, _ = clustering.analyse(magnitude[:, None].to(torch.complex64))
        centroids = kmeans(clustering.embed(encoded)[0], 2).centroids
        plain = masks_of(clustering, magnitude, centroids)
        told = masks_of(clustering, magnitude, centroids, several=True)
    torch.testing.assert_close(told, plain, atol=0.1, rtol=0)
    torch.testing.assert_close(told.sum(1), torch.ones(1, 300, 129))


@pytest.mark.parametrize("head", ["embedding", "masks"])
def test_scores_of_talkers_are_those_of_the_masks(head: str) -> None:
    """In parts and from the embeddings that tell who talks; known to be active, nobody loses."""
    torch.manual_seed(0)
    network = {"layers": 1, "width": 8, "embedding": 4, "unfolded": {"width": 4}}
    chosen = ModelSettings.model_validate(
        {"network": network, "masks": {"head": head, "sharpness": 5.0}}
    )
    activity = TalkerActivity(129, 4).eval()
    clustering = DeepClustering(Model(chosen, build_network(chosen).eval(), {}, activity))
    with torch.no_grad():
        magnitude = torch.rand(200, 129)  # more than FRAMES
        encoded, _ = clustering.analyse(magnitude[None, None].to(torch.complex64))
        centroids = torch.eye(4)[:3]
        logits, _ = clustering._talkers((encoded[0], magnitude), centroids)
        masks = masks_of(clustering, magnitude[None], centroids)[0]
        odds = [torch.full((3, 50), 20.0)]
        active = clustering.masks(0, logits, Link(3, state=Clusters(centroids, True, odds)))
    torch.testing.assert_close(active, masks)
    assert masks.std() > 1e-3


def test_who_talks_is_a_matter_of_a_second() -> None:
    """What the odds say of a single frame does not cut into a turn; a pause of two seconds does."""
    clustering = clustering_of(sharpness=5.0)
    second = clustering.sample_rate // clustering.stft.hop // STRIDE  # frames of odds
    odds = torch.full((2, 12 * second), 10.0)
    odds[1, 3 * second] = -10.0
    odds[1, 6 * second : 8 * second] = -10.0
    logits = torch.zeros(2, 12 * second * STRIDE, 129)
    link = Link(2, state=Clusters(torch.eye(2), True, [odds]))
    share = clustering.masks(0, (logits,), link)[1, ::STRIDE, 0]
    assert share[: 5 * second].min() > 0.4
    assert share[7 * second] == pytest.approx(10 ** (FLOOR_DB / 20), rel=0.05)
    assert share[10 * second :].min() > 0.49

"""Fits beside the network: shapes, determinism, and what they need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dpcl.clustering.count import CUES
from dpcl.errors import InputError
from dpcl.io import no_report
from dpcl.mixtures.conversation import converse
from dpcl.mixtures.corpus import read_corpus
from dpcl.model import Model, ModelSettings, build_network, load_model, save_model
from dpcl.recordings.separate import separate_recording
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.training.fits import conditioned_examples, fit_model, with_turns
from dpcl.training.phases import Fit
from dpcl.training.recipe import DataSettings


@pytest.fixture(scope="module")
def model() -> Model:
    settings = ModelSettings.model_validate(
        {
            "signal": {"sample_rate": 2000, "window": 64, "hop": 32},
            "network": {"layers": 1, "width": 4, "embedding": 3},
            "masks": {"sharpness": 5.0},
        }
    )
    torch.manual_seed(0)
    return Model(settings, build_network(settings).eval(), {})


def fit(model: Model, corpus: Path, **settings: object) -> Model:
    data = DataSettings(corpora=(str(corpus),))
    return fit_model(model, Fit.model_validate(settings), data, no_report)


def test_counting_is_fitted_and_the_same_twice(model: Model, corpus: Path) -> None:
    settings = {"fit": "count", "split": "train", "mixtures": 3, "conversations": 1}
    settings |= {"minutes": 0.1, "most": 2, "prior": [1.0, 2.0]}
    fitted = fit(model, corpus, **settings)
    count = fitted.settings.count
    assert count is not None
    assert {len(row) for row in count.hidden} == {1 + CUES}
    assert len(count.output) == 2
    assert fit(model, corpus, **settings).settings == fitted.settings


def test_counting_is_fitted_under_the_conditions_of_the_recipe(model: Model, corpus: Path) -> None:
    background = {"shares": {"noise": 1.0}, "probability": 1.0}
    conditions = {"rooms": {"count": 2}, "background": background, "talkers": [0.5, 0.5]}
    data = DataSettings.model_validate({"corpora": (str(corpus),), "conditions": conditions})
    settings = {"fit": "count", "split": "train", "mixtures": 2, "conversations": 0, "most": 2}
    read = read_corpus(corpus, "train")
    assert data.conditions is not None
    drawn = list(
        conditioned_examples(2000, Fit.model_validate(settings), read, data, data.conditions)
    )
    assert [len(example.sources) for example in drawn] == [1, 1, 2, 2]
    # Noise fills every pause; a codec may round some of its samples to zero.
    assert all((np.asarray(example.mixture) == 0).mean() < 0.1 for example in drawn)
    fitted = fit_model(model, Fit.model_validate(settings), data, no_report)
    count = fitted.settings.count
    assert count is not None and len(count.output) == 2


def test_the_si_sdr_of_sources_is_estimated_after_a_fit(model: Model, corpus: Path) -> None:
    settings = {"fit": "confidence", "split": "train", "mixtures": 3, "most": 2}
    fitted = fit(model, corpus, **settings)
    confidence = fitted.settings.confidence
    assert confidence is not None and confidence.error_db > 0
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    separation = separate_recording(noise, 2000, DeepClustering(fitted), 2)
    assert separation.confidence is not None and len(separation.confidence) == 2
    assert separate_recording(noise, 2000, DeepClustering(model), 2).confidence is None


def test_whitening_is_a_matrix_of_the_embeddings(model: Model, corpus: Path) -> None:
    fitted = fit(model, corpus, fit="whitening", conversations=2, minutes=0.5)
    rows = torch.tensor(fitted.settings.whitening)
    torch.testing.assert_close(rows, rows.T, rtol=0, atol=1e-3)
    assert rows.shape == (3, 3)


def test_activity_is_fitted_and_saved(model: Model, corpus: Path, tmp_path: Path) -> None:
    fitted = fit(
        model, corpus, fit="activity", conversations=3, minutes=0.4, voice_steps=2, steps=2
    )
    assert fitted.activity is not None
    save_model(fitted, tmp_path / "a.safetensors")
    again = load_model(tmp_path / "a.safetensors").activity
    assert again is not None
    for name, value in fitted.activity.state_dict().items():
        assert torch.isfinite(value).all()
        assert torch.equal(value, again.state_dict()[name])


def test_a_model_without_embeddings_and_a_short_prior_are_refused(
    model: Model, corpus: Path
) -> None:
    settings = ModelSettings.model_validate(
        {"network": {"embedding": 0, "masks": 2, "width": 4}, "masks": {"head": "masks"}}
    )
    masks = Model(settings, build_network(settings), {})
    with pytest.raises(InputError, match="no embeddings"):
        fit(masks, corpus, fit="count")
    with pytest.raises(InputError, match="prior has 1 values; give 2"):
        fit(model, corpus, fit="count", most=2, prior=[1.0], split="train")
    with pytest.raises(InputError, match="valid"):  # the split that counting is fitted on
        fit(model, corpus, fit="count")


def test_turns_leave_every_source_some_energy() -> None:
    sources = np.random.default_rng(0).standard_normal((3, 1000)).astype(np.float32)
    gated = with_turns(sources, 1)
    assert gated.shape == (3, 1000)
    assert (np.square(gated).sum(1) >= 0.1 * np.square(sources).sum(1)).all()
    assert (gated == 0).any()


def test_a_conversation_is_its_sources_and_the_same_for_the_same_seed(corpus: Path) -> None:
    talkers = read_corpus(corpus)
    names, sources = converse(talkers, 3, 0.1, 0, 2000, (0.5, 1.0), (0.2, 0.5))
    assert len(set(names)) == 3
    assert sources.shape == (3, 12000)
    assert sources.sum(0).abs().max() <= 1
    assert not sources[2, :2000].any()  # the last talker enters late
    assert torch.equal(converse(talkers, 3, 0.1, 0, 2000, (0.5, 1.0), (0.2, 0.5))[1], sources)
    with pytest.raises(InputError, match="4 speakers, too few for conversations of 5"):
        converse(talkers, 5, 0.1, 0, 2000)

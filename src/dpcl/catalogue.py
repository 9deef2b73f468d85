"""Files by name: models that ship and models of the hub, with their cards; lists and recipes.

This module works without torch. A repository of the Hugging Face hub, hf://ORG/NAME[@REVISION],
holds model.safetensors and README.md, the card. A model is downloaded once into the cache of
`huggingface_hub`. The cached commit stays in use until `dpcl models pull` fetches anew.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dpcl.errors import InputError, need_package

WEIGHTS = Path(__file__).parent / "weights"  # folder of the shipped models

SCHEME = "hf://"
FILE, CARD = "model.safetensors", "README.md"  # files of a repository
LIBRARY = "dpcl"  # `library_name` in the front matter of cards
TAGS = ["audio", "source-separation", "speech-separation", "deep-clustering"]
NAME = r"hf://(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?"


@dataclass(frozen=True)
class ShippedModel:
    """Model that ships with the package.

    Attributes:
        name: name of the model.
        path: its .safetensors file.
        card: its model card, Markdown.
    """

    name: str
    path: Path
    card: str

    @property
    def summary(self) -> str:
        """First paragraph of the card after its heading, in one line."""
        paragraphs = self.card.strip().split("\n\n")
        return " ".join(next((p for p in paragraphs if not p.startswith("#")), "").split())


def shipped_models() -> list[ShippedModel]:
    """Return the shipped models in the order of their names.

    Example:
        >>> "default" in [model.name for model in shipped_models()]
        True
    """
    return [
        ShippedModel(path.stem, path, path.with_suffix(".md").read_text(encoding="utf-8"))
        for path in sorted(WEIGHTS.glob("*.safetensors"))
    ]


def weights_path(name: str) -> Path | None:
    """Find a weights file; a model of the hub is downloaded unless it is in the cache.

    Args:
        name: name of a shipped model, hf://ORG/NAME, or a path.

    Returns:
        The path of the file; None if it does not exist.

    Raises:
        InputError: The hub has no such model, or cannot be reached.
    """
    if name.startswith(SCHEME):
        return fetch(name).path
    shipped = WEIGHTS / f"{name}.safetensors"
    path = shipped if Path(name).name == name and shipped.is_file() else Path(name)
    return path if path.is_file() else None


def find_folder(kind: str) -> Path:
    """Return the folder of the `lists` or `recipes` that ship, installed or in the repository."""
    places = _shipped(kind)
    return next((place for place in places if place.is_dir()), places[0])


def find_file(kind: str, name: str) -> Path | None:
    """Return a file of the working folder `kind`, else the one that ships; None without both."""
    places = (Path(kind), *_shipped(kind))
    return next((place / name for place in places if (place / name).is_file()), None)


def _shipped(kind: str) -> tuple[Path, ...]:
    """Return the wheel's folder and the repository's."""
    package = Path(__file__).parent
    return package / "data" / kind, package.parents[1] / kind


@dataclass(frozen=True)
class HubModel:
    """Model in the cache of the hub.

    Attributes:
        name: hf://ORG/NAME@COMMIT, which always names these weights.
        path: its .safetensors file.
    """

    name: str
    path: Path

    @property
    def card(self) -> str:
        """Model card, Markdown; empty without one."""
        path = self.path.with_name(CARD)
        return path.read_text(encoding="utf-8") if path.is_file() else ""


def parse_name(name: str) -> tuple[str, str | None]:
    """Split the name of a model on the hub.

    Args:
        name: hf://ORG/NAME or hf://ORG/NAME@REVISION.

    Returns:
        ORG/NAME, and the revision or None.

    Raises:
        InputError: The name has another form.

    Example:
        >>> parse_name("hf://someone/talkers@v1")
        ('someone/talkers', 'v1')
    """
    found = re.fullmatch(NAME, name)
    if found is None:
        raise InputError(f"{name}: is no name of a model on the hub; write hf://ORG/NAME")
    return found["repository"], found["revision"]


def fetch(name: str, refresh: bool = False) -> HubModel:
    """Return a model of the hub from the cache; download it if it is not there.

    Args:
        name: hf://ORG/NAME or hf://ORG/NAME@REVISION; without a revision, the commit that was
            downloaded last.
        refresh: ask the hub for the newest commit of the revision.

    Returns:
        The model with its commit.

    Raises:
        InputError: The hub has no such model or cannot be reached, the repository holds no
            model.safetensors, or `huggingface_hub` is not installed.
    """
    repository, revision = parse_name(name)
    need_package("hub", "models of the hub need", "huggingface_hub")
    import huggingface_hub as hub
    from huggingface_hub.errors import RemoteEntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    found = None
    if not refresh:
        found = hub.try_to_load_from_cache(repository, FILE, revision=revision)
    if not isinstance(found, str):
        if not sys.stderr.isatty():
            disable_progress_bars()
        with _sentences(name):
            try:
                found = hub.hf_hub_download(repository, FILE, revision=revision)
            except RemoteEntryNotFoundError as error:
                files = hub.HfApi().list_repo_files(repository, revision=revision)
                raise _without_weights(name, files) from error
        commit = Path(found).parent.name
        with _sentences(name), suppress(RemoteEntryNotFoundError):  # a model without a card
            hub.hf_hub_download(repository, CARD, revision=commit)
    path = Path(found)
    return HubModel(f"{SCHEME}{repository}@{path.parent.name}", path)


def discard(model: HubModel) -> None:
    """Remove a model from the cache, such as one that dpcl cannot read."""
    import huggingface_hub as hub

    cache = hub.scan_cache_dir(model.path.parents[3])
    cache.delete_revisions(model.path.parent.name).execute()


def cached_models() -> list[HubModel]:
    """Return the models of dpcl in the cache, by the front matter of their cards."""
    if find_spec("huggingface_hub") is None:
        return []
    from huggingface_hub import constants

    if not Path(constants.HF_HUB_CACHE).is_dir():
        return []
    import huggingface_hub as hub

    repositories = hub.scan_cache_dir(constants.HF_HUB_CACHE).repos
    models = [
        HubModel(f"{SCHEME}{repository.repo_id}@{revision.commit_hash}", path)
        for repository in repositories
        for revision in repository.revisions
        if (path := revision.snapshot_path / FILE).is_file()
    ]
    mark = f"library_name: {LIBRARY}"
    return sorted((m for m in models if mark in m.card), key=lambda model: model.name)


def publish(
    weights: Path,
    name: str,
    card: str,
    private: bool = False,
    licence: str | None = None,
    message: str = "Add the model",
) -> str:
    """Upload weights and their card as one commit.

    The access token is the one of `hf auth login` or of the variable HF_TOKEN.

    Args:
        weights: .safetensors file that dpcl wrote.
        name: hf://ORG/NAME; the repository is made if it does not exist.
        card: Markdown, without front matter.
        private: make a new repository private.
        licence: identifier of the licence of the weights, such as mit; None to state none.
        message: message of the commit.

    Returns:
        hf://ORG/NAME@COMMIT.

    Raises:
        InputError: The hub refuses the upload or cannot be reached.
    """
    repository, revision = parse_name(name)
    if revision is not None:
        raise InputError(f"{name}: a revision cannot be uploaded; write {SCHEME}{repository}")
    need_package("hub", "models of the hub need", "huggingface_hub")
    import huggingface_hub as hub

    text = front_matter(licence) + card.strip() + "\n" + _usage(name)
    api = hub.HfApi()
    with _sentences(name):
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.create_commit(
            repository,
            [
                hub.CommitOperationAdd(FILE, weights),
                hub.CommitOperationAdd(CARD, text.encode()),
            ],
            commit_message=message,
        )
    return f"{SCHEME}{repository}@{done.oid}"


def front_matter(licence: str | None = None) -> str:
    """Return the YAML front matter of a card, by which the hub lists the model.

    Args:
        licence: identifier of the licence of the weights; None to state none.

    Example:
        >>> print(front_matter("mit").splitlines()[1])
        library_name: dpcl
    """
    import yaml

    document: dict[str, Any] = {"library_name": LIBRARY, "pipeline_tag": "audio-to-audio"}
    document |= {"tags": TAGS} | ({"license": licence} if licence else {})
    return f"---\n{yaml.safe_dump(document, sort_keys=False)}---\n\n"


def _usage(name: str) -> str:
    """Return the last section of a card."""
    return (
        f"\n## Use\n\n```bash\npip install 'dpcl[hub]'\ndpcl separate REC --model {name}\n```\n"
        f'\n```python\ndpcl.separate(samples, sample_rate, model="{name}")\n```\n'
    )


def _without_weights(name: str, files: list[str]) -> InputError:
    """Return the error for a repository without model.safetensors."""
    others = [file for file in files if file.endswith((".safetensors", ".bin", ".pt", ".ckpt"))]
    holds = f"has {', '.join(others)} but" if others else "has"
    return InputError(
        f"{name}: {holds} no {FILE}; dpcl reads weights that `dpcl models push` uploaded"
    )


@contextmanager
def _sentences(name: str) -> Iterator[None]:
    """Turn errors of the hub into one sentence each."""
    from huggingface_hub import errors

    try:
        yield
    except errors.RemoteEntryNotFoundError:
        raise
    except errors.GatedRepoError as error:
        raise InputError(
            f"{name}: needs the consent of its owner; ask for it on the page of the model"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{name}: the hub has no such model, or it is private; check the name, or log in with"
            " `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"{name}: the model has no such revision; omit @REVISION for the newest one"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise InputError(
                f"{name}: the hub refuses the access; log in with `hf auth login`"
            ) from error
        raise InputError(f"{name}: the hub answers with status {status}; try again") from error
    except Exception as error:
        package = type(error).__module__.partition(".")[0].rstrip("2")  # of its HTTP client
        if not isinstance(error, OSError) and package != "httpx":
            raise
        raise InputError(
            f"{name}: the hub cannot be reached; check the connection, or give a .safetensors file"
        ) from error

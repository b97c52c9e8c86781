"""What a network's `from_pretrained`, `save_pretrained` and `push_to_hub` do.

What is shared goes out in the hub's layout: transformers, and whatever builds on it, opens it, while our own would be
of use to this library alone. What that layout has no room for (which classes are things, thresholds, …) stands in one
entry of its own in `config.json` (`hub_config.OWN`), so that nothing is lost on the way.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from weights.checkpoint import NETWORKS, Checkpoint, in_hub_layout, write_hub, write_native
from weights.class_names import Classes
from weights.load import create_model, family_of, load_checkpoint
from weights.model_card import Facts, model_card
from weights.model_folder import OTHER_WEIGHTS
from weights.zoo import ZOO

if TYPE_CHECKING:
    from mask2former.modeling.model import Mask2Former
    from oneformer.model import OneFormer

N = TypeVar("N")
CARD = "README.md"


def load(
    network: type[N],
    source: str | Path,
    num_classes: int | None,
    classes: Classes | None,
    device: torch.device | str,
    dtype: torch.dtype | None,
    config_fields: dict[str, Any],
) -> N:
    """A network of this class, or of a subclass that somebody made of it. ValueError where the source is another's."""
    own = next(family for family, base in NETWORKS.items() if issubclass(network, base))
    dtype = torch.float32 if dtype is None else dtype
    found = family_of(source)  # before a download, where that can be told
    if found == own or found not in NETWORKS:
        model: Any = create_model(source, True, num_classes, classes, device, dtype, **config_fields)
        found = model.config.family
    if found != own:
        right = NETWORKS[found].__name__
        raise ValueError(
            f"{source} is a {right}, and {network.__name__}.from_pretrained was asked for it: take "
            f"{right}.from_pretrained, or create_model, which takes both"
        )
    if type(model) is not network:  # but the one it is derived from
        derived: Any = network(model.config)
        derived.load_state_dict(model.state_dict())
        derived.origin = model.origin
        model = derived.to(device, dtype).eval()
    return model


def save(model: Mask2Former | OneFormer, folder: str | Path, facts: Facts, replace_card: bool) -> None:
    """Write a folder; a model card that is there stays, unless it is to be replaced."""
    folder = Path(folder)
    keeps = (folder / CARD).exists() and not replace_card
    written = _write(model, folder, folder.name, facts, with_card=not keeps)
    _warn(written, str(folder), keeps)


def push(
    model: Mask2Former | OneFormer,
    repo_id: str,
    facts: Facts,
    replace_card: bool,
    private: bool | None,
    token: str | None,
    commit_message: str | None,
) -> str:
    """Upload what `save` writes, in one commit. Weights in other forms that the repository has go in the same one."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo_id)
    with tempfile.TemporaryDirectory() as folder:  # whatever may be wrong here shows before anything is made there
        written = _write(model, Path(folder), repo_id, facts, with_card=True)
        api, message = HfApi(token=token), commit_message or f"Upload {type(model).__name__}"
        with _hub_errors(repo_id):
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            keeps = not replace_card and api.file_exists(repo_id, CARD)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=message,
                ignore_patterns=[CARD] if keeps else None,
                delete_patterns=list(OTHER_WEIGHTS),
            )
    _warn(written, repo_id, keeps)
    return commit.commit_url


@dataclass(frozen=True)
class _Written:
    facts: Facts  # with what is known of the published model
    own_layout: str | None  # why it is ours, where the hub's would not do


def _write(model: Mask2Former | OneFormer, folder: Path, name: str, facts: Facts, with_card: bool) -> _Written:
    published = ZOO.get(model.origin or "")
    source = _published_checkpoint(model.origin) if published else None
    facts = facts.completed(published, unchanged=source is not None and _same_weights(model, source))
    state, tokenizer = dict(model.state_dict()), source.tokenizer if source else ()
    checkpoint, own_layout = Checkpoint(model.config, state, "the model", tokenizer), None
    try:
        in_hub_layout(checkpoint)
    except ValueError as error:
        own_layout = str(error)
    card = model_card(model, name, facts, published, in_hub_layout=own_layout is None, has_tokenizer=bool(tokenizer))
    (write_native if own_layout else write_hub)(checkpoint, folder)
    if with_card:
        temporary = folder / f".{os.getpid()}.{CARD}"
        try:
            temporary.write_text(card, encoding="utf-8")
            temporary.replace(folder / CARD)
        finally:
            temporary.unlink(missing_ok=True)
    return _Written(facts, own_layout)


def _warn(written: _Written, where: str, keeps_card: bool) -> None:
    """Say what the caller may not expect."""
    remarks = []
    if written.own_layout:
        remarks.append(f"{where} is in this library's own layout, which transformers cannot open: {written.own_layout}")
    if keeps_card:
        remarks.append(f"{where} keeps the {CARD} it had; replace_card=True writes a new one")
    elif written.facts.missing:
        names = written.facts.missing
        remarks.append(
            f"the model card of {where} leaves open: {', '.join(names)}. Give {', '.join(f'{n}=…' for n in names)}, "
            "for others to know what they may do with it and expect of it; weights that were fine-tuned from published "
            "ones keep the licence of those"
        )
    for remark in remarks:
        warnings.warn(remark, stacklevel=4)  # whoever called save_pretrained or push_to_hub


def _published_checkpoint(name: str) -> Checkpoint | None:
    """What the weights of a network were when they were read, from the cache; None where they are gone."""
    try:
        return load_checkpoint(name)
    except (OSError, ValueError):
        return None


def _same_weights(model: Mask2Former | OneFormer, published: Checkpoint) -> bool:
    """Whether a network still is the published one, in whatever precision it is held."""
    if model.config.classes != published.config.classes:
        return False
    entries = ((tensor.cpu(), published.state.get(name)) for name, tensor in model.state_dict().items())
    return all(theirs is not None and torch.equal(ours, theirs.to(ours.dtype)) for ours, theirs in entries)


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """What goes wrong on the way to the hub, in this library's words."""
    try:
        yield
    except Exception as error:  # a library below raises whatever its own HTTP library does
        chain = [error, error.__cause__, error.__context__]
        status = next((e.response.status_code for e in chain if getattr(e, "response", None) is not None), None)
        if isinstance(error, ValueError) and (status is None or status == 400):
            raise ValueError(
                f"{repo_id}: the hub does not take what was sent: {error}; nothing was uploaded"
            ) from error
        reason = str(error).strip().partition("\n")[0]
        if status in (401, 403):
            raise PermissionError(
                f"{repo_id}: the hub does not let you write there ({reason}); log in with `hf auth login`, with a "
                "token that may write, or give token=…; nothing was uploaded"
            ) from error
        raise ConnectionError(
            f"{repo_id}: the upload failed ({reason}); the repository, if it was there, has what it had. Try again"
            + (", online and without HF_HUB_OFFLINE" if status is None else "")
        ) from error

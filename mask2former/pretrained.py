"""`from_pretrained`, `save_pretrained`, `push_to_hub`: both networks have them, as the hand expects of a model.

The networks know nothing of checkpoints; `weights` does. This is the one file below it that calls it, and only inside
these methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

    from weights.class_names import Classes


class Pretrained:
    """What makes a network one that is read from, written to and shared on the Hugging Face hub."""

    origin: str | None = None  # the published model it was read from; it may have been trained further since

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        num_classes: int | None = None,
        classes: Classes | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        **config_fields: Any,
    ) -> Self:
        """A network with its weights, in evaluation mode; as `weights.create_model`, which takes either family.

        source: a name of `weights.list_models()`, a hub id, a local folder or an original file. dtype: None for
            float32. The other arguments are those of `create_model`.
        Raises ValueError where the source is of the other family, else as `create_model`.
        """
        from weights.pretrained import load

        return load(cls, source, num_classes, classes, device, dtype, config_fields)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        licence: str | None = None,
        data: str | Sequence[str] | None = None,
        scores: Mapping[str, float] | None = None,
        replace_card: bool = False,
    ) -> None:
        """Write into a folder what `push_to_hub` would upload. `from_pretrained(folder)` reads it back.

        That is the hub's layout, `config.json`, `model.safetensors` and `preprocessor_config.json`, which transformers
        opens too, and a model card, `README.md`. Where that layout has no name for the backbone it is this library's
        own layout, and a warning says so. (`weights.save_model` always writes our own.)

        licence: of these weights, as the hub spells it, such as "mit" or "cc-by-nc-4.0"; by default that of the
            published model they came from. data: the datasets they were trained on. scores: such as {"PQ": 53.2}, as
            you measured them; by default the published ones, if the weights are still the published ones. What is
            neither given nor known the card leaves open, and a warning says so.
        replace_card: write a new card over one that is there; without it that one stays, with a warning.
        Raises OSError where the folder cannot be written; nothing half-written is left.
        """
        from weights.pretrained import Facts, save

        save(self, folder, Facts(licence, data, scores), replace_card=replace_card)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        licence: str | None = None,
        data: str | Sequence[str] | None = None,
        scores: Mapping[str, float] | None = None,
        replace_card: bool = False,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Upload the network to the Hugging Face hub in one commit, and return the address of the commit.

        repo_id: "owner/name", or a name of your own; made where it does not exist, private if `private` says so.
        token: by default that of `hf auth login`. The other arguments: see `save_pretrained`.
        Raises ValueError for a name the hub does not allow, PermissionError where the hub does not let you write
        there, ConnectionError where it cannot be reached or breaks off: a repository then has all it had before.
        """
        from weights.pretrained import Facts, push

        facts = Facts(licence, data, scores)
        return push(self, repo_id, facts, replace_card, private, token, commit_message)

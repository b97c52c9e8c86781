"""The model card of weights that are shared: what they are, were trained on, score, and may be used for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mask2former.version import __version__

if TYPE_CHECKING:
    from mask2former.modeling.model import Mask2Former
    from oneformer.model import OneFormer
    from weights.zoo import PublishedModel

PAPERS = {"mask2former": "https://arxiv.org/abs/2112.01527", "oneformer": "https://arxiv.org/abs/2211.06220"}
TASK = "image-segmentation"  # what the hub calls it


@dataclass(frozen=True)
class Facts:
    """What no network knows of itself; None where it is not known."""

    licence: str | None = None  # of the weights, as the hub spells it
    data: str | Sequence[str] | None = None  # the datasets they were trained on
    scores: Mapping[str, float] | None = None  # by the names of the measures
    published: bool = False  # whether the scores are those of a paper

    def completed(self, origin: PublishedModel | None, unchanged: bool) -> Facts:
        """With what is known of the published model that the weights came from; its scores hold if nothing changed."""
        if origin is None:
            return self
        scores, published = self.scores, False
        if scores is None and unchanged and origin.scores:
            scores, published = origin.scores, True
        data = self.data if self.data is not None or not unchanged else origin.dataset
        return replace(
            self, licence=self.licence or origin.weight_licence, data=data, scores=scores, published=published
        )

    @property
    def datasets(self) -> list[str]:
        return [self.data] if isinstance(self.data, str) else list(self.data or ())

    @property
    def missing(self) -> list[str]:
        """What is still unknown, by the names of the arguments that give it."""
        return [name for name in ("licence", "data", "scores") if not getattr(self, name)]


def model_card(
    model: Mask2Former | OneFormer,
    name: str,
    facts: Facts,
    origin: PublishedModel | None,
    in_hub_layout: bool,
    has_tokenizer: bool,
) -> str:
    """The text of README.md: a head for the hub to read, and the same for people.

    name: of the repository or folder. origin: the published model the weights came from. in_hub_layout, has_tokenizer:
    what is written beside the card.
    """
    sections = [
        f"---\n{_head(model, name, facts, origin, in_hub_layout)}\n---",
        f"# {name.rpartition('/')[2]}",
        _what_it_is(model, origin),
        f"## Use\n\n{_use(model, name, in_hub_layout, has_tokenizer)}",
        f"## Data\n\n{_data(facts, origin)}",
        f"## Scores\n\n{_scores(facts, origin)}",
        f"## Licence\n\n{_licence(facts, origin)}",
        f"## Classes\n\n{_classes(model)}",
    ]
    return "\n\n".join(sections) + "\n"


def _head(
    model: Mask2Former | OneFormer, name: str, facts: Facts, origin: PublishedModel | None, in_hub_layout: bool
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    tasks = model.config.protocol.tasks
    dataset = ", ".join(facts.datasets) or "not stated"
    source = {"source_name": "the paper", "source_url": PAPERS[model.config.family]} if facts.published else {}
    results = [
        EvalResult(TASK, dataset, dataset, measure, value, **source) for measure, value in (facts.scores or {}).items()
    ]
    return ModelCardData(
        license=facts.licence.lower() if facts.licence else None,
        library_name="transformers" if in_hub_layout else None,
        pipeline_tag=TASK,
        tags=[TASK, *(f"{task}-segmentation" for task in tasks), model.config.family],
        datasets=[data for data in facts.datasets if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", data)] or None,
        metrics=sorted(facts.scores) if facts.scores else None,
        base_model=origin.hub_id if origin else None,
        model_name=name.rpartition("/")[2] if results else None,
        eval_results=results or None,
    ).to_yaml()


def _what_it_is(model: Mask2Former | OneFormer, origin: PublishedModel | None) -> str:
    config, network = model.config, "OneFormer" if model.config.family == "oneformer" else "Mask2Former"
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    start = f" Its weights came from {_named(origin)}." if origin else ""
    return (
        f"A [{network}]({PAPERS[config.family]}) with the backbone `{config.backbone}`: {millions:.1f} million "
        f"parameters, {config.num_queries} queries, {config.num_classes} classes; for {_listed(config.protocol.tasks)} "
        f"segmentation.{start} Written by mask2former-oneformer {__version__}."
    )


def _use(model: Mask2Former | OneFormer, name: str, in_hub_layout: bool, has_tokenizer: bool) -> str:
    task, protocol = model.config.protocol.tasks[0], model.config.protocol
    ours = (
        f'```python\nimport mask2former\n\npredictor = mask2former.create_predictor("{name}")\n'
        f'result = predictor("photo.jpg", task="{task}")\nresult.overlay().show()\n```\n\n'
        f"Photos are resized to a shorter side of {protocol.short_side} pixels, the longer one at most "
        f"{protocol.long_side}."
    )
    if not in_hub_layout:
        return f"{ours} The files are in this library's own layout, which transformers cannot open."
    network = "OneFormer" if model.config.family == "oneformer" else "Mask2Former"
    theirs = (
        f"In transformers:\n\n```python\nfrom transformers import {network}ForUniversalSegmentation\n\n"
        f'model = {network}ForUniversalSegmentation.from_pretrained("{name}")\n```'
    )
    if network == "OneFormer" and not has_tokenizer:
        theirs += "\n\nIts OneFormerProcessor needs CLIP's tokenizer files as well, which are not here."
    return f"{ours}\n\n{theirs}"


def _data(facts: Facts, origin: PublishedModel | None) -> str:
    told = f"Trained on {_listed(facts.datasets)}." if facts.data else "Not stated."
    if origin and origin.dataset not in facts.datasets:
        told += f" The weights it began with were trained on {origin.dataset}."
    return told


def _scores(facts: Facts, origin: PublishedModel | None) -> str:
    if not facts.scores:
        return "Not stated." + (f" Those of {_named(origin)} are not these weights'." if origin else "")
    rows = [f"| {measure} | {value:g} |" for measure, value in facts.scores.items()]
    source = f"As published for {_named(origin)}, whose weights these are.\n\n" if facts.published and origin else ""
    return source + "\n".join(["| measure | value |", "|---|---|", *rows])


def _licence(facts: Facts, origin: PublishedModel | None) -> str:
    if not facts.licence:
        return "Not stated; ask before you use these weights."
    told = f"Weights: {facts.licence}."
    if origin and facts.licence.lower() != origin.weight_licence.lower():
        told += f" The published weights they came from are {origin.weight_licence}."
    return f"{told} The code that reads them is MIT-licensed."


def _classes(model: Mask2Former | OneFormer) -> str:
    things = [c.name for c in model.config.classes if c.is_thing]
    stuff = [c.name for c in model.config.classes if not c.is_thing]
    kinds = (("Things", things), ("Stuff", stuff))
    parts = [f"{kind} ({len(names)}): {', '.join(names)}." for kind, names in kinds if names]
    return "\n\n".join(parts)


def _named(origin: PublishedModel) -> str:
    return f"[{origin.name}](https://huggingface.co/{origin.hub_id})" if origin.hub_id else f"`{origin.name}`"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

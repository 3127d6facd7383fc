"""Recordings and their measures in; what is said of each in words, and which words fit which recording, out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ira.data.shards import Example
from ira.data.voices import ORDERED, alternatives, attributes, captions, tag_overlap, with_measures

TARGET_SHARPNESS = 0.1  # soft targets are exp((overlap - 1) / this): only near-identical tags count as a match
SCALE_SHARPNESS = 0.5  # targets on an ordered scale are exp(-steps / this): a neighbour counts for some
OWN_WORDS = 0.3  # how often the caption is the row's own description, where it has one


@dataclass
class Said:
    """What B clips are told in: a caption each, and the fullest; all that are true of each; the tags."""

    drawn: list[str]
    fullest: list[str]
    true: list[set[str]]
    tags: list[dict[str, str]]


@dataclass
class Scale:
    """An attribute: the clips [n] that have it, for each the captions of all values, and targets [n, V] over them."""

    name: str
    rows: list[int]
    captions: list[list[str]]
    targets: Tensor


def say(examples: list[Example], measures: list[dict[str, float]], generator: torch.Generator) -> Said:
    """Draw a caption for each example, whose sound was measured; one of which nothing is known is "a voice"."""
    said = Said([], [], [], [])
    for example, measured in zip(examples, measures, strict=True):
        known = replace(example, extra=with_measures(example.extra, measured, example.text))
        options = captions(known) or ["a voice"]
        own = bool(example.description.strip()) and float(torch.rand((), generator=generator)) < OWN_WORDS
        said.drawn.append(options[0 if own else int(torch.randint(len(options), (1,), generator=generator))])
        said.fullest.append(options[-1])
        said.true.append(set(options))
        said.tags.append(attributes(known))
    return said


def word_targets(said: Said, examples: list[Example]) -> Tensor:
    """How well the caption drawn for clip j fits clip i [B, B]: 1 where it is true of it, else by their tags."""
    described = [
        tags | ({"description": example.description} if example.description else {})
        for tags, example in zip(said.tags, examples, strict=True)
    ]
    overlap = torch.tensor([[tag_overlap(a, b) for b in described] for a in described])
    fits = torch.tensor([[float(caption in true) for caption in said.drawn] for true in said.true])
    return torch.maximum(fits, ((overlap - 1) / TARGET_SHARPNESS).exp())


def scales(said: Said) -> list[Scale]:
    """Every attribute that some clip has, with the captions that tell its values apart."""
    found: dict[str, list[tuple[int, list[str], int]]] = {}
    for row, tags in enumerate(said.tags):
        for name, (options, right) in alternatives(tags).items():
            found.setdefault(name, []).append((row, options, right))
    return [
        Scale(name, [row for row, _, _ in asked], [options for _, options, _ in asked], _scale_targets(name, asked))
        for name, asked in found.items()
    ]


def _scale_targets(name: str, asked: list[tuple[int, list[str], int]]) -> Tensor:
    """One for the right value; on an ordered scale something for its neighbours."""
    right = torch.tensor([right for _, _, right in asked])
    steps = (torch.arange(len(asked[0][1])) - right[:, None]).abs().float()
    targets = (-steps / SCALE_SHARPNESS).exp() if name in ORDERED else (steps == 0).float()
    return targets / targets.sum(-1, keepdim=True)

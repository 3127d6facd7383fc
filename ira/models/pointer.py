"""Where in its text a row of speech stands: from an alignment in training, from the model's own word in decoding.

The pointer goes from one text token to the next. It can neither skip a token nor go back to one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

STILL_THERE = math.exp(-1)  # chance to be at a token still, below which the pointer leaves it


@dataclass
class Pointer:
    """Where each row stands in its text. place: [B, S] token index; stay: [B, S] frames it is there, this one included.

    A row without text stands at place 0 with a stay of 0.
    """

    place: Tensor
    stay: Tensor


def walked(walk: Tensor, frames: Tensor, lengths: Tensor, steps: int, longest_stay: int) -> Pointer:
    """The pointer at every decoding step of a whole sequence; past a row's frames it rests on the last token.

    Args:
        walk: [B, T] token of each frame; frames, lengths: [B]; steps: S, at least T.
    """
    walk = nn.functional.pad(walk, (0, steps - walk.shape[1]))
    at = torch.arange(steps, device=walk.device)
    place = torch.where(at < frames[:, None], walk, lengths[:, None] - 1).clamp(min=0)
    begins = nn.functional.pad(place[:, 1:] != place[:, :-1], (1, 0), value=True)
    since = torch.where(begins, at, 0).cummax(dim=1).values
    told = (lengths > 0)[:, None]
    return Pointer(torch.where(told, place, 0), torch.where(told, (at - since + 1).clamp(max=longest_stay), 0))


class Walker:
    """Moves the pointer of every row: it leaves a token when the hazards to leave have added up to one.

    Where every frame is as likely as the next, that is the mean duration; where one frame is nearly certain, it is that
    frame. Sampling each step instead would make durations as rough as coin tosses, and the median of durations, which
    are skewed, makes speech too fast. `pace` [B] multiplies the rate at which a row leaves its tokens: 2 is fast.
    """

    def __init__(self, lengths: Tensor, longest_stay: int, pace: Tensor) -> None:
        self.told, self.last = lengths > 0, (lengths - 1).clamp(min=0)
        self.longest, self.pace = longest_stay, pace
        self.pointer = Pointer(torch.zeros_like(lengths)[:, None], self.told.long()[:, None])
        self.stays = torch.ones(lengths.shape, device=lengths.device)

    @property
    def at_end(self) -> Tensor:
        """[B] whether the row's pointer stands at the last token, or has no text to walk through."""
        return self.pointer.place[:, 0] >= self.last

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self.told, self.last, self.pace, self.stays = (
            each[rows] for each in (self.told, self.last, self.pace, self.stays)
        )
        self.pointer = Pointer(self.pointer.place[rows], self.pointer.stay[rows])

    def advance(self, logits: Tensor) -> Tensor:
        """Logits [B] of leaving after this frame -> [B] bool, True where the last token was left."""
        self.stays = self.stays * torch.sigmoid(-logits) ** self.pace
        stay = self.pointer.stay[:, 0]
        leaves = self.told & ((self.stays < STILL_THERE) | (stay >= self.longest))
        ended = leaves & self.at_end
        moves = leaves & ~ended
        self.stays = torch.where(leaves, 1.0, self.stays)
        place = self.pointer.place[:, 0] + moves
        stay = torch.where(moves, 1, (stay + self.told).clamp(max=self.longest))
        self.pointer = Pointer(place[:, None], stay[:, None])
        return ended

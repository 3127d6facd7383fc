"""An answer to speech in, a score out: how likely the frozen LLM finds that answer after reading the text.

This is reinforced behaviour alignment's question (Liu et al. 2025) put to a log-probability: does the model that
listens behave as the model that reads? No label stands in the reward; every answer the reader would give scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ira.models.audio_llm import AudioLLM
from ira.models.llm import lora_off
from ira.training.conversations import teacher_item
from ira.training.ppo import token_log_probs


def pad_tokens(responses: list[list[int]], device: torch.device) -> Tensor:
    """Token ids of answers side by side [B, R], 0 past an answer's end."""
    rows = [torch.tensor(ids, dtype=torch.long) for ids in responses]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)


@torch.no_grad()
def behaviour_scores(
    audio_llm: AudioLLM, texts: list[str], prompts: list[str], responses: list[list[int]], missing_eos_penalty: float
) -> Tensor:
    """Mean log-probability a token [B] under the frozen LLM on the text, less a penalty where the answer has no end."""
    items = [teacher_item(text, prompt) for text, prompt in zip(texts, prompts, strict=True)]
    with lora_off(audio_llm.llm):
        read = audio_llm.response_logits(items, responses)
    log_probs = token_log_probs(read.logits, pad_tokens(responses, read.logits.device), 1.0)
    mean = (log_probs * read.mask).sum(1) / read.mask.sum(1).clamp(min=1)
    unended = torch.tensor([ids[-1] not in audio_llm.llm.eos_ids for ids in responses], device=mean.device)
    return mean - missing_eos_penalty * unended


def normalise_scores(scores: Tensor) -> Tensor:
    """Scores [B] with mean 0 and deviation 1, clipped to 5."""
    return ((scores - scores.mean()) / (scores.std(unbiased=False) + 1e-6)).clamp(-5, 5)

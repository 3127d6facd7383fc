"""IRA, Integrated Reasoning with Audio: a voice and ears for a small open language model.

The journey, top to bottom; a file imports only from the layers above its own line:

    manifest row (text, audio file, speaker, description)                                  ira.data.manifest
      -> waveform        [B, 1, N]   24 kHz mono                                           ira.audio.waveform
      -> codes           [B, K, T]   codec tokens at the codec's frame rate                ira.audio.codec, compact
      -> steps           [B, K, S]   the delay pattern, the only place that shifts         ira.audio.delay
      -> logits          [B, K, T + 1, V + 1] and states [B, n, T, D]; text and a voice
                         through cross-attention                                           ira.models.speech_lm
      -> embeddings      [B, Q, E]   Perceiver queries in the LLM's own space              ira.models.adapter
      -> text            the sound stands where the prompt says <|audio|>                  ira.models.audio_llm
      -> codes -> waveform   the spoken reply                                              ira.inference.pipeline

Shapes: B batch, N samples, T codec frames, K codebooks, S steps, L text tokens, Q queries, D SpeechLM width,
E LLM width, V codebook size, H heads, M mel bins.

Trained by `ira train` in five stages (ira.training), judged by `ira eval` (ira.evaluation), used through the command
`ira` (ira.cli.app) or ira.inference.pipeline.
"""

__version__ = "0.1.0"

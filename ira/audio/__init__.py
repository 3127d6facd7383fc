"""Sound: files to waveforms, waveforms to log-mel pictures and to codec tokens, and back."""

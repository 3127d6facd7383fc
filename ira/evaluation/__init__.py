"""A model folder and held-out recordings in; figures of its coding, its voices, its speech and its hearing, out."""

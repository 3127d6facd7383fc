"""The networks: speech model, voice encoder, adapter and the language model that listens."""

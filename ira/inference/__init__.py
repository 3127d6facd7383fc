"""A trained model in use: text and a voice to speech, speech to an answer, speech to speech."""

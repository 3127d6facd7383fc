"""A SpeechLM's step of decoding in C++, for CPUs: its source, how it is compiled and how it is called."""

"""Figures, sounds and pictures of a run in; lines, files and the pages of other tools out."""

"""A public speech corpus as it was unpacked in; our manifests, with the sound beside them, out."""

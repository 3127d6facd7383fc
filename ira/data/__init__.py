"""From a folder of recordings to batches: manifests, spoken text, token shards, voice descriptions, batches."""

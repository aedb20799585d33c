"""The contract: records, codec, topics, signal catalogue, settings. A leaf: imports none of ours."""

"""From embeddings to ranked lists: scores, top-k, metrics, evaluation, baselines."""

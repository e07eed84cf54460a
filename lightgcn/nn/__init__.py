"""The model: LightGCN, its propagation, losses and initialisation."""

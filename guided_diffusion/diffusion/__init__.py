"""The diffusion chain, denoisers, losses, noise, and a trained model as a whole."""

"""Networks: images and timesteps in, raw numbers out."""

"""Training and reference images, however they are stored, and the endless stream of batches made from them."""

"""Training and reference images: class folders on disk, and the endless stream of batches made from them."""

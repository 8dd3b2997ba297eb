"""What samples are worth: features of two sets of images, their statistics, and the numbers made from those."""

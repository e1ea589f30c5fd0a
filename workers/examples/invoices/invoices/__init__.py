"""Tasks of one's own: what a team puts into an image of its own, on top of the worker's."""

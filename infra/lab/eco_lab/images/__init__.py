"""Images: made here from Debian packages and wheels, kept as docker-archives named by a hash of what went into them.

`archive` packs a directory as an image without any tool. `base` makes the Debian base. `wheels` fetches what pip
installs. `build` runs Dockerfiles through buildah. `catalogue` names every image of the lab.
"""

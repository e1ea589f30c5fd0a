"""`up`, `down` and `status`: the order in which the parts come and go."""

from eco_lab.environment import LabEnvironment


def up(*, nodes: int, only_control_plane: bool, with_programs: tuple[str, ...]) -> LabEnvironment:
    """See `eco_lab.environment.up`."""
    raise NotImplementedError(nodes, only_control_plane, with_programs)

"""The parts of an audit, in the order of the report. A new part is a module with a ``PART``, and a line here."""

from haloformer.audit import geometry, noise, out_of_distribution, shift, shortcut, symmetry
from haloformer.audit.part import Part

PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        shortcut.PART,
        noise.PART,
        geometry.PART,
        shift.PART,
        symmetry.PART,
        out_of_distribution.PART,
    )
}

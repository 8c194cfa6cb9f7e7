"""The networks; importing the package lists all of them in `SUBJECTS`."""

from tests.compositions.subjects import converted, hosts

__all__ = ["converted", "hosts"]

"""The services in the box, written like any other: system, echo, lab."""

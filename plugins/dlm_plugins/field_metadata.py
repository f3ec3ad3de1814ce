"""Keys of a field's metadata by which a class says how a run file writes it (defaults by name, keys side by side)."""

UNSTRUCTURED_DEFAULT = "unstructured_default"
"""Key of a field's metadata: a value as a run file would write it, structured when the key is absent. It is how a field
of another package's component type can have a default: ``metadata={"unstructured_default": "cosine"}``."""

BESIDE = "beside"
"""Key of a field's metadata: the component of this field is written flat, its name and its options beside the other
keys of the class. Those keys are the kind's ``reserved`` ones."""

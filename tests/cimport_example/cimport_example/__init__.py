from .sealed import sealed_copy, seals, size

__all__ = ["sealed_copy", "seals", "size"]

"""What parameters are drawn from, read off the code that draws them.

``construction`` runs that code and reads the laws. ``recorder`` follows its operations, ``calls``
runs one again on other tensors, ``samplers`` has the functions speak that no operation shows.
``memory`` is what is known of a storage, ``elements`` of one number in it.
"""

from varprobe.initializers.capture.construction import Captured, capture_construction, capture_draw

__all__ = ["Captured", "capture_construction", "capture_draw"]

"""What a probe needs to watch a model that somebody else runs.

``refusals`` names the models that cannot be watched, ``filters`` chooses their modules, ``hooks``
is what is put on them, ``forwards`` numbers calls and passes, ``gradients`` taps tensors,
``grad_scale`` undoes AMP's scaling, ``dataflow`` finds what computes outside of any module,
``ledger`` keeps the books, and ``preservation`` puts everything back after an experiment. Which
hooks there are, and what they do, is said by `varprobe.probe`.
"""

from varprobe.observation.filters import is_container, is_leaf

__all__ = ["is_container", "is_leaf"]

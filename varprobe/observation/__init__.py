"""What a probe needs to watch a model that somebody else runs.

``refusals`` names the models that cannot be watched, ``filters`` chooses their modules, ``hooks``
is what is put on them, ``forwards`` numbers calls and passes, ``gradients`` taps tensors,
``grad_scale`` undoes AMP's scaling, ``parameters`` measures the weights, ``dataflow`` finds the
modules that compute by themselves and ``operations`` records what, ``ledger`` keeps the books,
``facts`` describes the model, ``gathering`` brings together what several ranks saw, and
``preservation`` puts everything back after an experiment. Which hooks there are, and what they do,
is said by `varprobe.probe`.
"""

from varprobe.observation.filters import is_container, is_leaf

__all__ = ["is_container", "is_leaf"]

"""What a probe needs to watch a model that somebody else runs.

``refusals`` names the models that cannot be watched, ``forwards`` numbers calls and passes,
``gradients`` taps tensors, ``dataflow`` finds what computes outside of any module, ``ledger`` keeps
the books, and ``preservation`` puts everything back after an experiment. None of it puts hooks on a
module: that is `varprobe.probe`.
"""

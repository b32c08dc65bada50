"""Recurrent layers, where one weight meets what it has made before.

`cells` are the formulas, `family` draws products with one matrix given the earlier ones, `layer`
goes through the steps with draws of a single feature, `returning` comes back. `grid` is how their
moments are laid out. `varprobe.theory.rules.recurrent_stack` makes laws of it.
"""

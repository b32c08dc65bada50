"""Keep pytest from importing libraries that are not among the test dependencies.

`make corpus` runs these files in an environment that has them.
"""

collect_ignore_glob = ["third_party/*"]

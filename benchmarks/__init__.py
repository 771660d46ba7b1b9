"""The benchmark: this checkout beside its peers, in one run, on one machine (`make bench`)."""
